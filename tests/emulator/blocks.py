"""Warps, warpgroups and thread blocks, and the barriers of a block: what there is, not what it does."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from .arithmetic import UNSIGNED
from .clocks import Clock
from .faults import Fault, Unsupported
from .ptx import Imm, Inst, Mem, Operand, Reg, Sym
from .shared_memory import SharedMemory

if TYPE_CHECKING:
    from .instructions.tensor_core import Multiplication
    from .kernel import Kernel

type Active = np.ndarray | None  # the lanes that take part, None if all do


@dataclasses.dataclass
class Mbarrier:
    """PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier".

    count      expected arrivals of each phase
    pending    of them, in this phase
    tx_count   bytes that are expected, less those that have come
    component  of vector clocks
    arrivals   the clock of this phase's arrivals, and of its loads
    completed  that of the phase before, which those who wait acquire
    """

    count: int
    component: int
    pending: int = 0
    phase: int = 0
    tx_count: int = 0
    arrivals: Clock = dataclasses.field(default_factory=Clock)
    completed: Clock = dataclasses.field(default_factory=Clock)

    def __post_init__(self):
        self.pending = self.count


@dataclasses.dataclass
class NamedBarrier:
    """One use of a barrier of bar.sync: the threads that have come, and what they bring (`initialised`: see `Warp`)."""

    arrived: int = 0
    complete: bool = False
    clock: Clock = dataclasses.field(default_factory=Clock)
    initialised: int = 0


@dataclasses.dataclass
class ClusterBarrier:
    """One use of barrier.cluster: the warps that have come, and the initialisations that they announced before."""

    arrived: int = 0
    complete: bool = False
    initialised: int = 0


@dataclasses.dataclass
class Copy:
    """An asynchronous copy out of shared memory, or of cp.async into it; `region`: what it holds, until it is waited for."""

    region: Any = None
    read: bool = False
    written: bool = False


@dataclasses.dataclass
class Join:
    """Lanes that a branch parted: those yet to run, and the lanes of all, once they have reached `pc`."""

    pc: int
    active: Active
    parts: list[tuple[int, np.ndarray]]


class Block:
    """A thread block: its shared memory, its barriers, and how many of its warps have not exited."""

    def __init__(self, index: int, rank: int, warps: int, shared_bytes: int, each_warp_waits: bool):
        self.index = index
        self.first_warp = rank * warps  # among those of the cluster
        self.shared = SharedMemory(shared_bytes, self.first_warp, warps, each_warp_waits)
        self.mbarriers: dict[int, Mbarrier] = {}
        self.named: dict[int, NamedBarrier] = {}
        self.live = warps


class Warpgroup:
    """Four contiguous warps, whose wgmma are one operation of all of them, and complete in order."""

    def __init__(self, block: Block):
        self.block = block
        self.warps: list[Warp] = []
        self.issued: list[Multiplication] = []
        self.completed = 0


class Warp:
    """32 lanes in step, but where they branch apart.

    registers    an array of 32 lanes each; None is undefined
    special      the special registers
    active       the lanes that run; None is all
    joins        where lanes that branched apart meet, the innermost last
    initialised  the mbarriers whose initialisation it may rely on, as bits; `announced` by fence.mbarrier_init
    unfenced     what it wrote to shared memory since its last fence.proxy.async
    bulk         of each lane, its bulk groups, the last one open
    copies       groups of cp.async, the last one open
    in_flight    registers that a wgmma reads or writes: its wgmma group, and what it is to it
    fenced       the registers, as they were at the last wgmma.fence; none before the first
    loaded       what ldmatrix put into registers, by the identity of their value: the value, and the chunks it was in
    posted       how many wgmma; `committed`: their number at each commit; `retired`: groups that were waited for
    """

    def __init__(self, block: Block, index: int, kernel: "Kernel", special: dict[str, np.ndarray], group: Warpgroup):
        self.block, self.index, self.kernel, self.special, self.group = block, index, kernel, special, group
        self.name = f"block {block.index} warp {index}"
        self.registers: list = [None] * len(kernel.program.widths)
        self.pc = 0
        self.active: Active = None
        self.joins: list[Join] = []
        self.exited = False
        self.blocked_at = -1  # the state of the world in which it could not go on, and why
        self.why = ""

        self.component = block.first_warp + index
        self.clock = Clock()
        self.clock.times[self.component] = 1
        self.initialised = self.announced = 0
        self.at_named: NamedBarrier | None = None
        self.at_cluster: ClusterBarrier | None = None

        self.unfenced: list[np.ndarray] = []
        self.bulk: dict[int, list[list[Copy]]] = {}
        self.copies: list[list[Copy]] = [[]]

        self.in_flight: dict[int, tuple[int, str]] = {}
        self.fenced: list = []
        self.loaded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.posted = 0
        self.committed: list[int] = []
        self.retired = 0

    @property
    def inst(self) -> Inst:
        return self.kernel.program.insts[self.pc]

    @property
    def time(self) -> int:
        return int(self.clock.times[self.component])

    def release(self, clock: Clock) -> None:
        """Let this clock cover all that the warp has done so far. It does not cover what the warp does next."""
        clock.covers(self.clock)
        self.clock.times[self.component] += 1

    def values(self, arg: Operand, bits: int) -> np.ndarray:
        """An argument, of each lane."""
        if isinstance(arg, Reg):
            if (value := self.registers[arg.slot]) is None:
                raise Fault("reads a register that nothing has written")
            return value
        if isinstance(arg, Imm):
            return np.full(32, arg.bits & ((1 << bits) - 1), UNSIGNED[bits])
        if isinstance(arg, Sym):
            return np.full(32, self.kernel.symbols[arg.name], np.int64)
        raise Unsupported(f"{arg} in `{self.inst.text}`")

    def addresses(self, mem: Mem) -> np.ndarray:
        return self.values(mem.base, 64).astype(np.int64) + mem.offset

    def uniform(self, arg: Operand, active: Active, bits: int = 32) -> int:
        """An argument that is one for all lanes."""
        values = self.addresses(arg) if isinstance(arg, Mem) else self.values(arg, bits)
        values = values if active is None else values[active]
        if (values != values[0]).any():
            raise Fault("lanes disagree on an argument that is one for all of them")
        return int(values[0])


def lanes(active: Active) -> np.ndarray:
    return np.arange(32) if active is None else np.flatnonzero(active)

"""A cluster of thread blocks, executed: its warps take turns, and asynchronous operations happen in between."""

import heapq
import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import memory_map
from .blocks import Block, ClusterBarrier, Mbarrier, Warp, Warpgroup
from .clocks import NOBODY
from .faults import Fault, Finding, Unsupported
from .step import step

if TYPE_CHECKING:
    from .machine import Machine


LONG_VECTOR = re.compile(r"\{([^{},]+),(?:[^{},]+,){7,}([^{},]+)\}")  # accumulators, which say little


class Place(NamedTuple):
    """An instruction of a warp: what a fault is blamed on, also of what it started and what happens later."""

    warp: Warp
    pc: int

    def __str__(self) -> str:
        inst = self.warp.kernel.program.insts[self.pc]
        return f"{self.warp.name} at {inst.line}, `{LONG_VECTOR.sub(r'{\1, ..., \2}', inst.text)}`"


class Cluster:
    """The blocks from `first` on; they share nothing with other clusters but global memory.

    changes     counts what may let a warp go on that could not
    barrier     the use of barrier.cluster that is open
    components  what vector clocks count beside warps: mbarriers, by address
    """

    def __init__(self, machine: "Machine", first: int):
        self.machine, self.timing = machine, machine.timing
        self.global_memory, self.counters = machine.global_memory, machine.counters
        self.now = self.changes = 0
        self.events: list[tuple[int, int, Place, Callable[[], None]]] = []
        self._order = itertools.count()
        self.barrier = ClusterBarrier()
        self.components: list[int] = []
        launch = machine.launch
        warps = launch.block[0] // 32
        self.blocks = [
            Block(first + rank, rank, warps, machine.shared_bytes, machine.each_warp_waits)
            for rank in range(launch.cluster[0])
        ]
        self.warps = [warp for block in self.blocks for warp in self._warps(block, warps)]
        for block in self.blocks:
            block.shared.name_of = self._name_of

    def _warps(self, block: Block, count: int) -> list[Warp]:
        warps: list[Warp] = []
        for i in range(count):
            group = warps[-1].group if i % 4 else Warpgroup(block)
            warps.append(Warp(block, i, self.machine.kernel, self._special_registers(block, i), group))
            group.warps.append(warps[-1])
        return warps

    def _special_registers(self, block: Block, index: int) -> dict[str, np.ndarray]:
        """PTX ISA, "Special Registers". Threads and clusters extend along x only."""
        launch, rank = self.machine.launch, block.index % self.machine.launch.cluster[0]
        x, y, _ = launch.grid
        lanes, full = np.arange(32, dtype=np.uint32), lambda value: np.full(32, value, np.uint32)
        at = block.index % x, block.index // x % y, block.index // (x * y)
        special = {"laneid": lanes, "cluster_ctaid.x": full(rank), "cluster_ctarank": full(rank)}
        for name, sizes in (("ctaid", at), ("nctaid", launch.grid), ("ntid", launch.block), ("tid", (0, 0, 0))):
            special |= {f"{name}.{axis}": full(size) for axis, size in zip("xyz", sizes, strict=True)}
        return special | {"tid.x": lanes + np.uint32(32 * index), "elected": lanes == 0, "leader": full(0)}

    def run(self) -> None:
        running, current = list(self.warps), None
        while running:
            while self.events and self.events[0][0] <= self.now:
                self._happen()
                self.changes += 1
            if current is None or current.exited or self._is_blocked(current) or self.timing.switches():
                ready = [warp for warp in running if not self._is_blocked(warp)]
                if not ready and not self.events:
                    raise Fault(self._deadlock(running), str(self.here(running[0])))
                if not ready:
                    self.now = max(self.now, self.events[0][0])
                    continue
                current = self.timing.choose(ready)
            try:
                step(self, current)
            except Finding as found:
                raise found.at(str(self.here(current))) from None
            self.now += 1
            if current.exited:
                running.remove(current)
        while self.events:
            self._happen()

    def _is_blocked(self, warp: Warp) -> bool:
        return warp.blocked_at == self.changes

    def here(self, warp: Warp) -> Place:
        return Place(warp, warp.pc)

    def after(self, place: Place, happens: Callable[[], None]) -> None:
        """An asynchronous operation, which this instruction started."""
        heapq.heappush(self.events, (self.now + self.timing.delay(), next(self._order), place, happens))

    def _happen(self) -> None:
        _, _, place, happens = heapq.heappop(self.events)
        try:
            happens()
        except Finding as found:
            raise found.at(str(place)) from None

    def block_of(self, warp: Warp, address: int) -> tuple[Block, int]:
        """The block whose shared memory an address of the cluster's is in, and the address there."""
        rank = (address >> memory_map.SHARED_BITS) - 1
        if rank < 0:
            return warp.block, address
        if rank >= len(self.blocks):
            raise Fault(f"shared memory of block {rank} of a cluster of {len(self.blocks)}")
        if self.blocks[rank].live == 0:
            raise Fault(f"shared memory of block {self.blocks[rank].index}, which has exited")
        return self.blocks[rank], address & (memory_map.SHARED_BYTES - 1)

    def initialise(self, block: Block, address: int, count: int) -> Mbarrier:
        component = len(self.warps) + len(self.components)
        if component >= NOBODY:
            raise Unsupported("more warps and mbarriers in a cluster than vector clocks have components")
        self.components.append(address)
        block.mbarriers[address] = Mbarrier(count, component)
        return block.mbarriers[address]

    def _name_of(self, component: int) -> str:
        if component < len(self.warps):
            return self.warps[component].name
        return f"TMA through mbarrier {self.components[component - len(self.warps)]:#x}"

    def _deadlock(self, running: list[Warp]) -> str:
        together: dict[tuple[int, str, str], list[int]] = {}
        for warp in running:
            together.setdefault((warp.block.index, warp.inst.line, warp.why), []).append(warp.index)
        lines = [f"  block {b} warps {warps} at {line}: {why}" for (b, line, why), warps in together.items()]
        for block in self.blocks:
            for at, m in sorted(block.mbarriers.items()):
                missing = f"{m.pending} of {m.count} arrivals and {m.tx_count} bytes missing"
                lines.append(f"  block {block.index} mbarrier {at:#x}: phase {m.phase}, {missing}")
        return "\n".join(["deadlock:", *lines])

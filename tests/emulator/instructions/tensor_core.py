"""Warp Level Matrix Instructions: mma; Asynchronous Warpgroup Level Matrix Instructions: wgmma.

The four warps of a warpgroup issue a wgmma together; it reads its operands and changes its accumulators at any time until
they have waited for it. Sums are float32 of NumPy's matmul.
"""

import itertools
import re

import numpy as np

from .. import matrices
from ..blocks import Warp, Warpgroup
from ..faults import Fault
from ..ptx import Inst, Reg
from ..shared_memory import CHUNK_WRITTEN, GENERIC, IN_FLIGHT
from .registry import executes

ACCUMULATORS, FRAGMENTS = "accumulators", "registers of A"  # what a register is to a wgmma in flight


@executes(r"mma\.sync\.aligned\.m16n8k(8|16)\.row\.col\.f32\.(bf16|f16|tf32)\.\2\.f32")
def mma(cluster, warp, active, inst):
    kind, depth = inst.parts[7], int(inst.parts[3].partition("k")[2])
    registers_a, registers_b, registers_c = ([warp.values(r, 32) for r in group] for group in inst.args[1:4])
    a, b = matrices.fragments_of_a(registers_a, kind), matrices.fragments_of_b(registers_b, kind)
    if not a.shape[1] == b.shape[0] == depth:
        raise inst.unsupported()
    sums = matrices.to_registers(a @ b + matrices.to_matrix(registers_c))
    for register, value in zip(inst.args[0], sums, strict=True):
        warp.registers[register.slot] = value
    cluster.counters["mma"] += 1


class Multiplication:
    """One wgmma of a warpgroup.

    a, b       the chunks of shared memory that the operands are in, [row, chunk]; a is None if A is in registers
    chunks     all that it has read when it ends: those, and what ldmatrix read for A in registers
    fragments  A in registers, of each warp
    issued_by, waiting  warps that have issued it, and that have not waited for it
    """

    def __init__(self, inst: Inst, group: Warpgroup, descriptors: tuple[int, ...], accumulate: int):
        self.inst, self.descriptors, self.accumulate = inst, descriptors, accumulate
        self.fragments: dict[int, list[np.ndarray]] = {}
        self.issued_by, self.waiting = 0, len(group.warps)
        self.kind, self.registers = inst.parts[-1], list(inst.slots([inst.args[0]]))

        rows, columns, depth = map(int, re.findall(r"\d+", inst.parts[4]))  # as in m64n128k16
        a_in_shared = isinstance(inst.args[1], Reg)
        scale_a, scale_b, *transposed = (arg.bits for arg in inst.args[4:])  # imm-scale-a, imm-scale-b, imm-trans-a, -b
        self.sign = scale_a * scale_b
        both = [False] * (2 - len(transposed)) + [bool(t) for t in transposed]  # A in registers is never transposed
        self.a_transposed, self.b_transposed = both
        itemsize = 4 if self.kind == "tf32" else 2
        sides = [(columns, self.b_transposed)]
        if a_in_shared:
            sides.insert(0, (rows, self.a_transposed))
        *a, self.b = (
            matrices.chunks(matrices.Descriptor.of(bits), n, depth * itemsize, transposed, itemsize)
            for bits, (n, transposed) in zip(descriptors, sides, strict=True)
        )
        self.a = a[0] if a else None
        self.operands = [at for at in (self.a, self.b) if at is not None]
        self.in_shared = self.chunks = np.concatenate([at.reshape(-1) for at in self.operands])
        group.block.shared.check_range(int(self.chunks.min()) * 16, int(self.chunks.max()) * 16 + 16)


@executes(r"wgmma\.fence\.sync\.aligned")
def fence(cluster, warp, active, inst):
    """Orders accesses of registers before those of the wgmma that follow."""
    warp.fenced = list(warp.registers)


@executes(r"wgmma\.mma_async\.sync\.aligned\.m64n\d+(k16\.f32\.(bf16|f16)\.\2|k8\.f32\.tf32\.tf32)")
def mma_async(cluster, warp, active, inst):
    accumulators = list(inst.slots([inst.args[0]]))
    fragments = list(inst.slots([inst.args[1]])) if isinstance(inst.args[1], tuple) else []
    _check_registers(warp, inst, accumulators, fragments)
    descriptors = tuple(warp.uniform(arg, None, 64) for arg in inst.args[1:3] if isinstance(arg, Reg))
    accumulate, group = warp.uniform(inst.args[3], None), warp.group
    if len(group.warps) != 4:
        raise Fault(f"wgmma by a warpgroup of {len(group.warps)} warps")
    if accumulate and any(warp.registers[slot] is None for slot in accumulators):
        raise Fault("adds to accumulators that nothing has written")
    if warp.posted == len(group.issued):
        group.issued.append(Multiplication(inst, group, descriptors, accumulate))
    op = group.issued[warp.posted]
    if op.inst is not inst or op.descriptors != descriptors or op.accumulate != accumulate:
        raise Fault("the warps of a warpgroup disagree on a wgmma")
    warp.block.shared.check_read(warp, op.in_shared * 4)  # the first word of each chunk, since TMA writes whole ones
    warp.posted += 1
    op.issued_by += 1
    if fragments:
        op.fragments[warp.index] = [warp.registers[slot] for slot in fragments]
        _hand_over(warp, op)
    number = len(warp.committed)  # of the wgmma group that it will be in
    warp.in_flight |= dict.fromkeys(accumulators, (number, ACCUMULATORS))
    warp.in_flight |= dict.fromkeys(fragments, (number, FRAGMENTS))
    if op.issued_by == len(group.warps):
        _issue(cluster, warp, op)


def _check_registers(warp: Warp, inst: Inst, accumulators: list[int], fragments: list[int]) -> None:
    """wgmma.fence: needed before the first wgmma, and whenever registers were written; not between wgmma of one shape."""
    for slots, what in ((accumulators, ACCUMULATORS), (fragments, FRAGMENTS)):
        if not warp.fenced or any(warp.registers[slot] is not warp.fenced[slot] for slot in slots):
            raise Fault(f"{what} were written since the last wgmma.fence")
    is_in_flight_as = lambda slot, what: warp.in_flight.get(slot, (0, ""))[1] == what
    if any(is_in_flight_as(slot, ACCUMULATORS) for slot in inst.slots(inst.args[1:4])):
        raise Fault("an argument is an accumulator in flight")
    if any(is_in_flight_as(slot, FRAGMENTS) for slot in accumulators):
        raise Fault("an accumulator is an argument of a wgmma in flight")


def _hand_over(warp: Warp, op: Multiplication) -> None:
    """Count a warp's ldmatrix into registers of A as read when the wgmma ends that all four warps issue."""
    for value in op.fragments[warp.index]:
        if (loaded := warp.loaded.pop(id(value), None)) is not None:
            _, chunks = loaded
            op.chunks = np.concatenate([op.chunks, chunks])
            warp.block.shared.read_at[warp.index, (chunks[:, None] * 4 + np.arange(4)).reshape(-1)] = 0
            for other in warp.group.warps:
                warp.block.shared.multiplies(other.index, chunks)


def _issue(cluster, warp: Warp, op: Multiplication) -> None:
    """The last of the warps has issued it; now it is under way."""
    group, shared = warp.group, warp.block.shared
    state = shared.state_of_chunks[op.in_shared]
    if (unclean := state[state != CHUNK_WRITTEN]).size:
        bits = np.bitwise_or.reduce(unclean.view(np.uint8))
        what = (
            "that a TMA load is still writing" if bits & IN_FLIGHT
            else "that threads wrote without fence.proxy.async" if bits & GENERIC
            else "that nobody has written, or an mbarrier"
        )  # fmt: skip
        raise Fault(f"wgmma reads shared memory {what}")
    for at in op.operands:
        shared.readers[at] += 1
    for each in group.warps:
        shared.multiplies(each.index, op.in_shared)
    number = warp.posted
    cluster.counters["wgmma"] += 1
    cluster.after(cluster.here(warp), lambda: _complete(group, number))


def _complete(group: Warpgroup, upto: int) -> None:
    """All wgmma of a warpgroup up to this one, in order; those that follow each other on the same accumulators at once."""
    done = group.issued[group.completed : upto]
    for registers, ops in itertools.groupby(done, key=lambda op: op.registers):
        sums = np.concatenate([_sums(warp, registers) for warp in group.warps])
        for op in ops:
            product = _product(group, op)
            sums = product + sums if op.accumulate else product
        for i, warp in enumerate(group.warps):
            for slot, value in zip(registers, matrices.to_registers(sums[16 * i : 16 * i + 16]), strict=True):
                warp.registers[slot] = warp.fenced[slot] = value
    group.completed = max(group.completed, upto)


def _product(group: Warpgroup, op: Multiplication) -> np.ndarray:
    memory = group.block.shared.chunks
    if op.a is None:
        a = np.concatenate([matrices.fragments_of_a(op.fragments[warp.index], op.kind) for warp in group.warps])
    else:
        a = matrices.operand(memory, op.a, op.kind, op.a_transposed)
    return a @ matrices.operand(memory, op.b, op.kind, op.b_transposed).T * np.float32(op.sign)


def _sums(warp: Warp, registers: list[int]) -> np.ndarray:
    """The accumulators of a warp; what nothing has written is not read (`mma_async` sees to that)."""
    values = (warp.registers[slot] for slot in registers)
    return matrices.to_matrix([np.zeros(32, np.uint32) if value is None else value for value in values])


@executes(r"wgmma\.commit_group\.sync\.aligned")
def commit(cluster, warp, active, inst):
    warp.committed.append(warp.posted)


@executes(r"wgmma\.wait_group\.sync\.aligned")
def wait(cluster, warp, active, inst):
    """Wait for all but the n last groups. A wgmma whose end one warp has seen has read its operands: see README.md."""
    upto = len(warp.committed) - warp.uniform(inst.args[0], active)
    if upto <= warp.retired:
        return None
    last, group, shared = warp.committed[upto - 1], warp.group, warp.block.shared
    if group.completed < last:
        return f"waits for wgmma {last}, {group.completed} are done"
    first = warp.committed[warp.retired - 1] if warp.retired else 0
    release_when = 0 if shared.each_warp_waits else len(group.warps) - 1
    for op in group.issued[first:last]:
        op.waiting -= 1
        shared.multiplied_at[warp.index, op.chunks] = warp.time
        if op.waiting == release_when:
            for at in op.operands:
                shared.readers[at] -= 1
    warp.retired = upto
    warp.in_flight = {slot: of for slot, of in warp.in_flight.items() if of[0] >= upto}
    return None

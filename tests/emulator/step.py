"""A warp goes on until it has done something that others can see, or can't: register instructions, branches, guards."""

from typing import TYPE_CHECKING

import numpy as np

from .blocks import Active, Join, Warp
from .faults import Fault
from .kernel import Single

if TYPE_CHECKING:
    from .cluster import Cluster


def step(cluster: "Cluster", warp: Warp) -> None:
    executed = 0
    while count := _silently(cluster, warp):
        executed += count
    cluster.counters["instructions"] += executed + _visibly(cluster, warp)


def _silently(cluster: "Cluster", warp: Warp) -> int:
    """Instructions that no other warp can see: so many were executed, none if the next one is seen."""
    while warp.joins and warp.pc == warp.joins[-1].pc:
        _join(warp)
    kernel, pc = warp.kernel, warp.pc
    if warp.active is None and (straight := kernel.straights[pc]) is not None:
        _compute(warp, straight.function, pc, straight.stop)
        warp.pc = straight.stop
        return straight.stop - pc
    inst = warp.inst
    if kernel.branches[pc] and inst.pred is None:
        warp.pc = inst.target
        return 1
    if kernel.branches[pc]:
        _branch(cluster, warp, _guarded(warp))
        return 1
    active = warp.active if inst.pred is None else _guarded(warp)
    if active is not None and not active.any():
        warp.pc = pc + 1
    elif (single := kernel.singles[pc]) is not None:
        _single(warp, None if active is None or active.all() else active, single)
        warp.pc = pc + 1
    else:
        return 0
    return 1


def _visibly(cluster: "Cluster", warp: Warp) -> int:
    """One instruction with effects, unless it has to wait."""
    inst, pc = warp.inst, warp.pc
    active = warp.active if inst.pred is None else _guarded(warp)
    active = None if active is None or active.all() else active
    if active is not None and ("sync" in inst.parts or "aligned" in inst.parts):
        raise Fault("a part of a warp executes what all of its lanes must")
    if warp.in_flight and "mma_async" not in inst.parts:
        _check_in_flight(warp, pc, pc + 1)
    effect = warp.kernel.effects[pc]
    assert effect is not None, inst.text  # `Kernel` has seen to it
    if (why := effect(cluster, warp, active, inst)) is not None:
        warp.why, warp.blocked_at = why, cluster.changes
        return 0
    warp.blocked_at = -1
    if not warp.exited:
        warp.pc = pc + 1
    return 1


def _guarded(warp: Warp) -> np.ndarray:
    """The lanes for which the guard of the instruction holds (PTX ISA, "Predicated Execution")."""
    inst = warp.inst
    holds = warp.values(inst.pred, 1)
    holds = ~holds if inst.negated else holds
    return holds if warp.active is None else holds & warp.active


def _branch(cluster: "Cluster", warp: Warp, taken: np.ndarray) -> None:
    """PTX ISA, "Control Flow Instructions: bra". Lanes that part meet at the branch's immediate post-dominator."""
    pc, rest = warp.pc, ~taken if warp.active is None else warp.active & ~taken
    if not rest.any():
        warp.pc = warp.inst.target
    elif not taken.any():
        warp.pc = pc + 1
    elif warp.inst.op == "bra.uni":
        raise Fault("lanes disagree on a branch that is one for all of them")
    else:
        warp.joins.append(Join(warp.kernel.join_of(pc), warp.active, [(warp.inst.target, taken)]))
        warp.pc, warp.active = pc + 1, rest
        cluster.counters["divergent branches"] += 1


def _join(warp: Warp) -> None:
    """One part has arrived where the parts of a warp meet: the next one runs, or all of them go on."""
    join = warp.joins[-1]
    if join.parts:
        warp.pc, warp.active = join.parts.pop()
    else:
        warp.active = join.active
        warp.joins.pop()


def _single(warp: Warp, active: Active, single: Single) -> None:
    """One register instruction; lanes that take no part keep what they have."""
    pc = warp.pc
    function, targets = single
    if active is not None and "sync" in warp.inst.parts:
        raise Fault("a part of a warp executes what all of its lanes must")
    before = [warp.registers[slot] for slot in targets]
    _compute(warp, function, pc, pc + 1)
    if active is not None:
        for slot, old in zip(targets, before, strict=True):
            new = warp.registers[slot]
            warp.registers[slot] = np.where(active, new, np.zeros_like(new) if old is None else old)


def _compute(warp: Warp, function, start: int, stop: int) -> None:
    if warp.in_flight:
        _check_in_flight(warp, start, stop)
    try:
        function(warp.registers, warp.special)
    except (AttributeError, TypeError):
        for pc in range(start, stop):  # those before have been executed
            inst = warp.kernel.program.insts[pc]
            if any(warp.registers[slot] is None for slot in inst.slots([*inst.args[1:], inst.pred])):
                warp.pc = pc
                raise Fault("reads a register that nothing has written") from None
        raise


def _check_in_flight(warp: Warp, start: int, stop: int) -> None:
    """PTX ISA, "wgmma.mma_async": registers of an operation that was not waited for may not be accessed."""
    for pc in range(start, stop):
        if hit := warp.kernel.touched[pc] & warp.in_flight.keys():
            warp.pc = pc
            raise Fault(f"touches {warp.in_flight[min(hit)][1]} of a wgmma that was not waited for")

"""A warp goes on until it has done something that others can see, or can't: register instructions, branches, guards."""

from typing import TYPE_CHECKING

import numpy as np

from .blocks import Active, Join, Warp
from .faults import Fault

if TYPE_CHECKING:
    from .cluster import Cluster


def step(cluster: "Cluster", warp: Warp) -> None:
    kernel, insts = warp.kernel, warp.kernel.program.insts
    executed, visible = 0, False
    while not visible:
        while warp.joins and warp.pc == warp.joins[-1].pc:
            _join(warp)
        pc = warp.pc
        if warp.active is None and (straight := kernel.straights[pc]) is not None:
            _compute(warp, straight.function, pc, straight.stop)
            executed += straight.stop - pc
            warp.pc = straight.stop
            continue
        inst = insts[pc]
        active = warp.active
        if inst.pred is not None:
            active = _guarded(warp)
            if kernel.branches[pc]:
                executed += 1
                _branch(cluster, warp, active)
                continue
            if not active.any():
                executed += 1
                warp.pc = pc + 1
                continue
            active = None if active.all() else active
        elif kernel.branches[pc]:
            executed += 1
            warp.pc = inst.target
            continue
        if kernel.singles[pc] is not None:
            _single(warp, active)
        else:
            visible = True
            if active is not None and ("sync" in inst.parts or "aligned" in inst.parts):
                raise Fault("a part of a warp executes what all of its lanes must")
            if warp.in_flight and "mma_async" not in inst.parts:
                _check_in_flight(warp, pc, pc + 1)
            why = kernel.effects[pc](cluster, warp, active, inst)
            if why is not None:
                warp.why, warp.blocked_at = why, cluster.changes
                break
            warp.blocked_at = -1
        executed += 1
        warp.pc = pc if warp.exited else pc + 1
    cluster.counters["instructions"] += executed


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


def _single(warp: Warp, active: Active) -> None:
    """One register instruction; lanes that take no part keep what they have."""
    pc = warp.pc
    function, targets = warp.kernel.singles[pc]
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
            raise Fault(f"touches {len(hit)} {warp.in_flight[min(hit)][1]} of a wgmma that was not waited for")

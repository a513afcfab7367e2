"""Control Flow Instructions: the end of a warp. Branches are in `step`."""

from ..faults import Fault
from ..shared_memory import IN_FLIGHT
from .registry import executes


@executes(r"ret")
def exit_warp(cluster, warp, active, inst):
    """Exit a warp. Nothing that its threads started may be under way, nor a load into the block when its last warp exits."""
    if active is not None or warp.joins:
        raise Fault("a part of a warp exits")
    if warp.retired < len(warp.committed) or warp.in_flight:
        raise Fault("exits with wgmma not waited for")
    if any(warp.copies):
        raise Fault("exits with cp.async not waited for")
    if any(copy.region is not None for groups in warp.bulk.values() for group in groups for copy in group):
        raise Fault("exits with TMA stores whose reads were not waited for")
    warp.exited = True
    warp.block.live -= 1
    if warp.block.live == 0 and (warp.block.shared.state & IN_FLIGHT).any():
        raise Fault("the block exits while a TMA load is on its way")
    cluster.changes += 1

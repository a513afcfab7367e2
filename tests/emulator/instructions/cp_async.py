"""Data Movement and Conversion Instructions: cp.async, of a thread, in its groups.

Nobody may read what it writes before that thread has waited for it, and others only after a barrier that follows.
"""

import itertools

import numpy as np

from ..blocks import Copy, Warp, lanes
from ..clocks import NEVER
from ..faults import Fault
from ..ptx import Imm
from ..shared_memory import IN_FLIGHT
from .registry import executes


@executes(r"cp\.async\.(ca|cg)\.shared(::cta)?\.global(\.L2::(64|128|256)B)?")
def copy_async(cluster, warp, active, inst):
    """cp.async [dst], [src], cp-size, src-size: what src-size leaves of cp-size is filled with zeros."""
    target, source, size, *source_size = inst.args
    if not isinstance(size, Imm) or len(source_size) > 1:
        raise inst.unsupported()
    some, n, shared = lanes(active), size.bits, warp.block.shared
    at, from_ = warp.addresses(target)[some], warp.addresses(source)[some]
    if (at % n).any() or (from_ % n).any():
        raise Fault(f"an address is no multiple of {n}")
    taken = warp.values(source_size[0], 32)[some].astype(np.int64) if source_size else np.full(len(some), n)
    index = (at[:, None] + np.arange(0, n, 4)).reshape(-1) >> 2
    shared.check_store(warp, index)
    shared.state[index] |= IN_FLIGHT
    shared.writer[index], shared.written_at[index] = warp.component, NEVER
    copy, byte, reads = Copy(region=index), np.arange(n), taken > 0
    if reads.any():
        buffer, offsets = cluster.global_memory.locate(from_[reads], int(taken.max()))

    def land():
        data = np.zeros((len(at), n), np.uint8)
        if reads.any():
            memory = cluster.global_memory.buffers[buffer]
            data[reads] = memory[np.minimum(offsets[:, None] + byte, len(memory) - 1)]
            data[byte >= taken[:, None]] = 0
        shared.bytes[at[:, None] + byte] = data
        copy.written = True

    warp.copies[-1].append(copy)
    cluster.after(cluster.here(warp), land)
    cluster.counters["cp.async"] += len(some)


@executes(r"cp\.async\.commit_group")
def commit(cluster, warp, active, inst):
    warp.copies.append([])


@executes(r"cp\.async\.wait_group")
def wait(cluster, warp, active, inst):
    return _wait(warp, warp.uniform(inst.args[0], active))


@executes(r"cp\.async\.wait_all")
def wait_all(cluster, warp, active, inst):
    if warp.copies[-1]:
        warp.copies.append([])
    return _wait(warp, 0)


def _wait(warp: Warp, n: int) -> str | None:
    """Wait for all but the n last committed groups."""
    old = warp.copies[: max(0, len(warp.copies) - 1 - n)]
    if not all(copy.written for copy in itertools.chain(*old)):
        return f"waits for all but {n} groups of cp.async"
    for copy in itertools.chain(*old):
        warp.block.shared.stored(warp, copy.region)
    del warp.copies[: len(old)]
    return None

"""Data Movement and Conversion Instructions: cp.async.bulk.tensor, its groups, and prefetch.tensormap.

A load completes on an mbarrier: from the moment it is issued the memory is in flight, and what comes belongs to the phase of
that mbarrier. A store is read, then written, later; bulk groups tell when.
"""

import itertools

import numpy as np

from ..blocks import Block, Copy, Mbarrier, Warp, lanes
from ..faults import Fault
from ..ptx import Mem
from ..shared_memory import IN_FLIGHT, WRITTEN
from ..tensor_map import TensorMap
from .barriers import advance, mbarrier_at
from .registry import executes


class _Box:
    """The data of a load, for all blocks that a multicast names: read once, when the first of them gets it."""

    def __init__(self, cluster, key: int, coordinates: list[int], address: int):
        self.cluster, self.key, self.coordinates, self.address = cluster, key, coordinates, address
        self.map: TensorMap = cluster.global_memory.maps[key]
        self.rows: np.ndarray | None = None

    def land(self, block: Block, mbarrier: Mbarrier, mbarrier_address: int, phase: int) -> None:
        if self.rows is None:
            self.rows = self.cluster.global_memory.load_box(self.key, self.coordinates)
        if block.live == 0:
            raise Fault(f"the load lands in block {block.index}, which has exited")
        block.shared.chunks[self.map.chunks(self.address)] = self.rows.reshape(len(self.rows), -1, 16)
        block.shared.state[_words(self.address, self.map)] = WRITTEN
        if mbarrier.phase != phase:
            raise Fault(
                f"block {block.index} mbarrier {mbarrier_address:#x} completed phase {phase} before this load of it landed: "
                "too few bytes were expected"
            )
        mbarrier.arrivals.times[mbarrier.component] = phase + 1
        mbarrier.tx_count -= self.map.box_bytes
        advance(self.cluster, mbarrier, mbarrier_address)


@executes(
    r"cp\.async\.bulk\.tensor\.[1-5]d\.shared::(cluster|cta)\.global(\.tile)?\.mbarrier::complete_tx::bytes"
    r"(\.multicast::cluster)?"
)
def load_box(cluster, warp, active, inst):
    target, source, mbarrier, *mask = inst.args
    for lane in lanes(active).tolist():
        key, tensor, coordinates = _tensor(cluster, warp, source, lane)
        at, mbarrier_address = (int(warp.addresses(mem)[lane]) for mem in (target, mbarrier))
        tensor.check_copy(len(coordinates), int(inst.parts[4][0]), at)
        box = _Box(cluster, key, coordinates, at)
        for block in _receivers(cluster, warp, int(warp.values(mask[0], 16)[lane]) if mask else None):
            _issue(cluster, warp, block, box, mbarrier_address)
        cluster.counters["TMA loads"] += 1
        cluster.counters["bytes loaded"] += tensor.box_bytes


def _receivers(cluster, warp: Warp, mask: int | None) -> list[Block]:
    if mask is None:
        return [warp.block]
    if mask >> len(cluster.blocks) or not mask:
        raise Fault(f"multicast to blocks {mask:#x} of a cluster of {len(cluster.blocks)}")
    return [block for rank, block in enumerate(cluster.blocks) if mask >> rank & 1]


def _issue(cluster, warp: Warp, block: Block, box: _Box, mbarrier_address: int) -> None:
    if block.live == 0:
        raise Fault(f"loads into block {block.index}, which has exited")
    words, shared = _words(box.address, box.map), block.shared
    shared.check_async_write(warp, words)
    mbarrier = mbarrier_at(warp, block, mbarrier_address)
    shared.state[words] |= IN_FLIGHT
    shared.writer[words], shared.written_at[words] = mbarrier.component, mbarrier.phase + 1
    phase = mbarrier.phase
    cluster.after(cluster.here(warp), lambda: box.land(block, mbarrier, mbarrier_address, phase))


@executes(r"cp\.async\.bulk\.tensor\.[1-5]d\.global\.shared::cta(\.tile)?\.bulk_group")
def store_box(cluster, warp, active, inst):
    target, source = inst.args
    for lane in lanes(active).tolist():
        key, tensor, coordinates = _tensor(cluster, warp, target, lane)
        at, shared = int(warp.addresses(source)[lane]), warp.block.shared
        tensor.check_copy(len(coordinates), int(inst.parts[4][0]), at)
        shared.check_range(at, at + tensor.box_bytes)
        words = _words(at, tensor)
        shared.check_async_read(warp, words, "TMA")
        chunks = slice(words.start >> 2, words.stop >> 2)
        shared.readers[chunks] += 1
        copy = Copy(region=chunks)
        warp.bulk.setdefault(lane, [[]])[-1].append(copy)
        _store_later(cluster, warp, copy, key, coordinates, tensor.chunks(at))
        cluster.counters["TMA stores"] += 1


def _store_later(cluster, warp: Warp, copy: Copy, key: int, coordinates: list[int], chunks: np.ndarray) -> None:
    place, shared = cluster.here(warp), warp.block.shared

    def read():
        rows = shared.chunks[chunks].reshape(len(chunks), -1)
        copy.read = True
        cluster.after(place, lambda: write(rows))

    def write(rows: np.ndarray):
        cluster.global_memory.store_box(key, coordinates, rows)
        copy.written = True

    cluster.after(place, read)


@executes(r"cp\.async\.bulk\.commit_group")
def bulk_commit(cluster, warp, active, inst):
    for lane in lanes(active).tolist():
        if lane in warp.bulk:
            warp.bulk[lane].append([])


@executes(r"cp\.async\.bulk\.wait_group(\.read)?")
def bulk_wait(cluster, warp, active, inst):
    """Wait for each lane's groups but the n last: until they are read with .read, else until they are written."""
    n, only_read = warp.uniform(inst.args[0], active), "read" in inst.parts
    waited_for = {lane: warp.bulk[lane] for lane in lanes(active).tolist() if lane in warp.bulk}
    olds = {lane: groups[: max(0, len(groups) - 1 - n)] for lane, groups in waited_for.items()}
    for copy in itertools.chain.from_iterable(itertools.chain.from_iterable(olds.values())):
        if not (copy.read if only_read else copy.written):
            return f"waits for all but {n} groups of TMA stores"
    for lane, groups in olds.items():
        for copy in itertools.chain.from_iterable(groups):
            if copy.region is not None:
                shared, chunks = warp.block.shared, copy.region
                shared.readers[chunks] -= 1
                shared.read_at[warp.index, chunks.start * 4 : chunks.stop * 4] = warp.time
                copy.region = None
        if not only_read:
            del warp.bulk[lane][: len(groups)]
    return None


@executes(r"prefetch(\.param|\.const)?\.tensormap")
def prefetch(cluster, warp, active, inst):
    cluster.global_memory.tensor_map(warp.uniform(inst.args[0], active))


def _tensor(cluster, warp: Warp, mem: Mem, lane: int) -> tuple[int, TensorMap, list[int]]:
    """The tensor map that a lane names, by key and by itself, and its coordinates there, which are signed."""
    key, tensor = cluster.global_memory.tensor_map(int(warp.addresses(mem)[lane]))
    return key, tensor, [int(warp.values(c, 32).view(np.int32)[lane]) for c in mem.coords]


def _words(address: int, tensor: TensorMap) -> slice:
    return slice(address >> 2, address + tensor.box_bytes >> 2)

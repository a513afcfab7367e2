"""Parallel Synchronization and Communication Instructions: mbarrier, bar.sync, barrier.cluster and the fences."""

import numpy as np

from ..blocks import Block, ClusterBarrier, Mbarrier, NamedBarrier, Warp, lanes
from ..clocks import Clock
from ..faults import Fault
from ..ptx import Mem
from ..shared_memory import MBARRIER
from .registry import executes

MOST_TX_COUNT = 2**20 - 1  # mbarrier: "Size and alignment of mbarrier object", the range of tx-count
NAMED_BARRIERS = 16
ALL_LANES = 0xFFFFFFFF


def mbarrier_at(warp: Warp, block: Block, address: int) -> Mbarrier:
    if address % 8:
        raise Fault(f"mbarrier at {address:#x}, no multiple of 8")
    if address not in block.mbarriers:
        raise Fault(f"no mbarrier was initialised at {address:#x}")
    mbarrier = block.mbarriers[address]
    if not warp.initialised >> mbarrier.component & 1:
        raise Fault(f"a race: mbarrier {address:#x} of block {block.index} may not be initialised yet")
    return mbarrier


def advance(cluster, mbarrier: Mbarrier, address: int) -> None:
    """mbarrier: "Phase Completion": when no arrivals are pending and tx-count is zero, the next phase begins."""
    if mbarrier.pending < 0:
        raise Fault(f"mbarrier {address:#x}: more arrivals in a phase than its {mbarrier.count}")
    if abs(mbarrier.tx_count) > MOST_TX_COUNT:
        raise Fault(f"mbarrier {address:#x}: a tx-count of {mbarrier.tx_count}")
    if mbarrier.pending == 0 and mbarrier.tx_count < 0:
        more = -mbarrier.tx_count
        raise Fault(f"mbarrier {address:#x}: {more} bytes more than were expected in a phase, and all have arrived")
    if mbarrier.pending == 0 and mbarrier.tx_count == 0:
        mbarrier.phase += 1
        mbarrier.pending = mbarrier.count
        mbarrier.arrivals, mbarrier.completed = Clock(), mbarrier.arrivals
        cluster.changes += 1


@executes(r"mbarrier\.init\.shared(::cta)?\.b64")
def mbarrier_init(cluster, warp, active, inst):
    address, count = (warp.uniform(arg, active) for arg in inst.args)
    if len(lanes(active)) > 1:
        raise Fault("several lanes initialise one mbarrier")
    if not 1 <= count <= MOST_TX_COUNT:
        raise Fault(f"an mbarrier of {count} arrivals")
    warp.block.shared.check_range(address, address + 8)
    mbarrier = cluster.initialise(warp.block, address, count)
    warp.initialised |= 1 << mbarrier.component
    warp.block.shared.state[address >> 2 : (address >> 2) + 2] = MBARRIER


@executes(r"mbarrier\.arrive(\.expect_tx)?(\.release\.(cta|cluster))?\.shared(::cta|::cluster)?\.b64")
def mbarrier_arrive(cluster, warp, active, inst):
    """Each active lane arrives; the lanes of a cluster's barrier may do so in different blocks."""
    mem = next(arg for arg in inst.args if isinstance(arg, Mem))
    amounts = inst.args[inst.args.index(mem) + 1 :]
    amount = warp.uniform(amounts[0], active) if amounts else 1
    addresses, counts = np.unique(warp.addresses(mem)[lanes(active)], return_counts=True)
    for address, count in zip(addresses.tolist(), counts.tolist(), strict=True):
        block, at = cluster.block_of(warp, address)
        if block is not warp.block and "shared::cluster" not in inst.parts:
            raise Fault("arrives in another block by an address of shared::cta")
        mbarrier = mbarrier_at(warp, block, at)
        mbarrier.arrivals.covers(warp.clock)
        if "expect_tx" in inst.parts:
            mbarrier.tx_count += count * amount
            mbarrier.pending -= count
        else:
            mbarrier.pending -= count * amount
        advance(cluster, mbarrier, at)
    warp.clock.times[warp.component] += 1
    cluster.counters["arrivals"] += len(lanes(active))


@executes(r"mbarrier\.try_wait\.parity(\.acquire\.(cta|cluster))?\.shared(::cta)?\.b64")
def mbarrier_wait(cluster, warp, active, inst):
    """Potentially blocking: here it blocks until the phase of this parity is over, whatever its time limit."""
    target, mem, parity, *_ = inst.args
    address, parity = warp.uniform(mem, active), warp.uniform(parity, active)
    mbarrier = mbarrier_at(warp, warp.block, address)
    if mbarrier.phase & 1 == parity:
        return f"waits for mbarrier {address:#x}, parity {parity}"
    warp.clock.covers(mbarrier.completed)
    warp.registers[target.slot] = np.full(32, True)
    cluster.counters["barriers waited for"] += 1
    return None


@executes(r"bar\.sync")
def named_barrier(cluster, warp, active, inst):
    """bar.sync a, b: a is the barrier, b how many threads take part, all of the block by default."""
    number = warp.uniform(inst.args[0], active)
    threads = warp.uniform(inst.args[1], active) if len(inst.args) > 1 else cluster.machine.launch.block[0]
    if not 0 <= number < NAMED_BARRIERS or threads % 32:
        raise Fault(f"barrier {number} of {threads} threads")
    if warp.at_named is None:
        warp.at_named = barrier = warp.block.named.setdefault(number, NamedBarrier())
        barrier.arrived += 32
        barrier.initialised |= warp.initialised
        warp.release(barrier.clock)
        if barrier.arrived > threads:
            raise Fault(f"barrier {number}: more than {threads} threads")
        if barrier.arrived == threads:
            barrier.complete = True
            del warp.block.named[number]
            cluster.changes += 1
    if not warp.at_named.complete:
        return f"at barrier {number}, {warp.at_named.arrived} of {threads} threads"
    warp.clock.covers(warp.at_named.clock)
    warp.initialised |= warp.at_named.initialised
    warp.at_named = None
    cluster.counters["barriers waited for"] += 1
    return None


@executes(r"bar\.warp\.sync")
def warp_barrier(cluster, warp, active, inst):
    """bar.warp.sync mask. It orders nothing here, where the lanes of a warp run in step. A part of them was refused before."""
    if warp.uniform(inst.args[0], active) != ALL_LANES:
        raise Fault("a barrier of a warp that not all of its lanes take part in")


@executes(r"barrier\.cluster\.arrive\.relaxed\.aligned")
def cluster_arrive(cluster, warp, active, inst):
    """Relaxed: it orders nothing but the initialisations of mbarriers that a fence has announced."""
    if warp.at_cluster is not None:
        raise Fault("arrives at the cluster's barrier twice without waiting for it")
    warp.at_cluster = barrier = cluster.barrier
    barrier.arrived += 1
    barrier.initialised |= warp.announced
    if barrier.arrived == len(cluster.warps):
        barrier.complete = True
        cluster.barrier = ClusterBarrier()
        cluster.changes += 1


@executes(r"barrier\.cluster\.wait(\.acquire)?\.aligned")
def cluster_wait(cluster, warp, active, inst):
    if warp.at_cluster is None:
        raise Fault("waits for the cluster's barrier without having arrived")
    if not warp.at_cluster.complete:
        return "waits for the cluster"
    warp.initialised |= warp.at_cluster.initialised
    warp.at_cluster = None
    cluster.counters["barriers waited for"] += 1
    return None


@executes(r"fence\.mbarrier_init\.release\.cluster")
def fence_initialisation(cluster, warp, active, inst):
    warp.announced = warp.initialised


@executes(r"fence\.proxy\.async(\.shared::cta)?")
def fence_proxy(cluster, warp, active, inst):
    warp.block.shared.fence(warp)

"""The cost model by which tiles are ranked: modelled, unmeasured.

A closed form that follows a simulation of the pipeline on one SM: the producer fills slots from L2 and global memory, the
consumers multiply them and store tiles, whichever takes longer. What a configuration asks is counted by its family, as `Work`;
what a chip can do are the constants of chips.py. All times are in clocks of an SM.
"""

from typing import NamedTuple

from .chips import Chip
from .gpu import H100_SMS

# How far things that could go on at the same time do: fitted to a simulation, CLASH to measured times (see
# bench/results/h200). A pair (part, share) adds that part of the shorter one to the longer, as far as it is beyond that
# share of it.
DRIFT = 0.6  # part of an epilogue that one consumer stores while another multiplies, with slots to spare
CLASH = 0.8, 0.6  # (part, share) of a tile's products and loads if they take turns in two slots; less in more of them
BUNCHED = 0.5, 0.6  # (part, share) of a tile and its traffic, which comes in one go where it is touched first
TURNS = 0.15  # part of the shorter of products and epilogue that is added if two blocks take turns
CACHED_PASS = 0.6  # part of the time of a pass of XLA whose bytes L2 holds
POWER_SOFTNESS = 8  # exponent with which clocks fall before the limit of power is met


class Work(NamedTuple):
    """The work that a kernel asks of a chip, counted by its family. A block is a thread block; all its consumers do the same.

    itemsize       bytes of an operand's element
    mma_warpgroups consumers: warpgroups of a block that multiply
    cluster        blocks that share what they load
    stages         slots of the ring
    epi_stages     staging buffers of a consumer
    over_images    whether boxes of pixels span images
    sms            SMs that have any work
    ctas_per_sm    blocks on each of them: two share its tensor cores and what it loads
    rounds         (how many, steps): tiles of a block of the busiest SM, those with as many steps together
    all_steps      steps of all clusters
    macs           multiply-adds of a consumer's step
    operand_bytes  bytes of shared memory that they read
    pixel_bytes    bytes of pixels that a block loads a step
    weight_bytes   bytes of weights that a block's step needs; its cluster loads them once
    rows           rows of the boxes that a block loads a step
    copies         copies that its producer issues a step
    taps           taps of a step, each multiplied on its own
    pixel_readers  blocks that load the same pixels, for other channels or taps
    kept_bytes     bytes of weights that a block keeps
    chunks         chunks of columns in which a consumer stores a tile
    elements       elements of a chunk that a thread computes, of all outputs
    stored_bytes   bytes of a block's tile that it stores, and of the residual that it loads
    ahead          chunks by which a residual is loaded ahead; None without one
    input_bytes    bytes of all pixels
    weights_bytes  bytes of all weights
    held_bytes     bytes that all blocks have under way: pixels, weights, results
    before_bytes   bytes that XLA reads and writes before the kernel
    after_bytes    bytes that XLA reads and writes after it
    """

    itemsize: int
    mma_warpgroups: int
    cluster: int
    stages: int
    epi_stages: int
    over_images: bool
    sms: int
    ctas_per_sm: int
    rounds: tuple[tuple[float, float], ...]
    all_steps: float
    macs: int
    operand_bytes: float
    pixel_bytes: int
    weight_bytes: int
    rows: float
    copies: int
    taps: int
    pixel_readers: int
    kept_bytes: int
    chunks: int
    elements: float
    stored_bytes: int
    ahead: int | None
    input_bytes: int
    weights_bytes: int
    held_bytes: float
    before_bytes: int
    after_bytes: int


def executed(work: Work) -> float:
    """Multiply-adds that all thread blocks together issue."""
    return work.all_steps * work.cluster * work.mma_warpgroups * work.macs


def flops_per_clock(itemsize: int, chip: Chip) -> float:
    """Peak flop/clk of one SM's tensor cores."""
    return chip.flops_clk * 2 / itemsize


def dram_bytes_per_clock(chip: Chip) -> float:
    """B/clk of the whole chip's global memory."""
    return chip.dram_tbs * 1e3 / chip.clock


def clocks(work: Work, chip: Chip) -> float:
    """Clocks of the whole product: the kernel as fast as power allows, and XLA's passes before and after it."""
    softly = 1 / POWER_SOFTNESS
    kernel = (_kernel(work, chip) ** POWER_SOFTNESS + _power(work, chip) ** POWER_SOFTNESS) ** softly
    return kernel + _pass(work.before_bytes, chip) + _pass(work.after_bytes, chip)


def _pass(nbytes: float, chip: Chip) -> float:
    """Clocks that XLA takes to read and write so many bytes."""
    if not nbytes:
        return 0.0
    part = 1.0 if nbytes > chip.l2_mb * 2**20 else CACHED_PASS
    return part * nbytes / dram_bytes_per_clock(chip) + chip.xla_pass


def _power(work: Work, chip: Chip) -> float:
    """Clocks of all products at the rate that power allows."""
    cap = chip.power_cap if work.itemsize == 2 else chip.power_cap_tf32
    return 2 * executed(work) * chip.clock * 1e-3 / cap


def _kernel(work: Work, chip: Chip) -> float:
    """Clocks of the kernel: launch, the first loads, the tiles of the block that has most, the last store."""
    first = chip.issue_tile_producer + chip.lat_dram + _load(work, chip) * work.ctas_per_sm
    if work.kept_bytes:
        first += chip.lat_dram + work.kept_bytes * (1 - chip.l2_merge) * work.ctas_per_sm / _l2_rate(work, chip)
    return chip.launch + first + _tiles(work, chip) + chip.store_ack


def _tiles(work: Work, chip: Chip) -> float:
    """Clocks of all tiles of the block that has most."""
    pace, traffic = _pace(work, chip), _traffic(work, chip)
    return sum(rounds * _tile(work, chip, steps, pace, traffic) for rounds, steps in work.rounds)


def _tile(work: Work, chip: Chip, steps: float, pace: "_Pace", traffic: "_Traffic") -> float:
    """Clocks of a tile: the longer of an SM's own work and its traffic with global memory, which comes when a tile begins."""
    loads = steps * (traffic.fresh * pace.fresh_slot + (1 - traffic.fresh) * pace.slot)
    busy = _two_blocks(steps, loads, pace) if work.ctas_per_sm == 2 else _one_block(work, steps, loads, pace)
    rate = min(dram_bytes_per_clock(chip) / work.sms, chip.dram_sm_clk)
    nbytes = (steps * traffic.step_bytes + work.stored_bytes) * work.ctas_per_sm
    part, share = BUNCHED
    return _overlapped(busy, nbytes / rate, part * (1 - traffic.fresh), share)


def _overlapped(a: float, b: float, part: float, share: float) -> float:
    """The longer of two times, plus `part` of that by which the shorter exceeds `share` of the longer."""
    return max(a, b) + part * max(0.0, min(a, b) - share * max(a, b))


def _one_block(work: Work, steps: float, loads: float, pace: "_Pace") -> float:
    """Clocks of a tile where an SM holds one block.

    Two consumers drift apart as far as the ring is deep, and so far they hide each other's epilogue. Loads go on while both
    store, as far as the ring is long.
    """
    apart = min(1.0, (work.stages - 2) / max(steps, 1.0)) * DRIFT if work.mma_warpgroups == 2 else 0.0
    exposed = pace.epilogue * (1 - apart)
    ahead = min(exposed, min(work.stages, steps) * pace.slot)
    part, share = CLASH
    part /= (work.stages - 1) ** 2
    return exposed + _overlapped(steps * pace.multiply, max(0.0, loads - ahead), part, share)


def _two_blocks(steps: float, loads: float, pace: "_Pace") -> float:
    """Clocks of a tile of each of two blocks on an SM: the products of one hide the epilogue of the other while they last."""
    products = steps * pace.multiply
    return max(2 * products, loads, products + pace.epilogue) + TURNS * min(2 * products, pace.epilogue)


class _Pace(NamedTuple):
    """Clocks of the things that a block does again and again.

    multiply    the products of a step
    slot        from one filled slot to the next, with pixels from L2
    fresh_slot  the same with pixels from global memory
    epilogue    from a tile's last product to its last store
    """

    multiply: float
    slot: float
    fresh_slot: float
    epilogue: float


def _pace(work: Work, chip: Chip) -> _Pace:
    slots = _slot(work, chip, chip.lat_l2), _slot(work, chip, chip.lat_dram)
    return _Pace(_multiply(work, chip), *slots, _epilogue(work, chip))


# A step.


def _multiply(work: Work, chip: Chip) -> float:
    """Clocks of a step's products, of all consumers of a block: bound by the tensor cores, or by shared memory."""
    flops = flops_per_clock(work.itemsize, chip) * chip.tensor_efficiency
    written = chip.smem_writes * (work.pixel_bytes + work.weight_bytes) / work.mma_warpgroups
    return work.mma_warpgroups * max(2 * work.macs / flops, (work.operand_bytes + written) / chip.smem_clk)


def _l2_rate(work: Work, chip: Chip) -> float:
    """B/clk that one SM gets from L2 while all SMs that have work ask."""
    return min(chip.l2_clk * H100_SMS / work.sms, chip.port_clk)


def _load(work: Work, chip: Chip) -> float:
    """Clocks to load a slot of one block at the rate of L2, of the SM's port, or of its TMA unit, whichever is slowest."""
    once, filled = 1 - chip.l2_merge, work.pixel_bytes + work.weight_bytes
    asked = work.pixel_bytes * (once if work.pixel_readers > 1 else 1) + work.weight_bytes / work.cluster * once
    return max(asked / _l2_rate(work, chip), filled / chip.port_clk, work.rows / chip.tma_rows)


def _issue(work: Work, chip: Chip) -> float:
    """Clocks of the producer's own work for a slot."""
    return chip.issue_step + work.copies * chip.issue_copy


def _slot(work: Work, chip: Chip, latency: float) -> float:
    """Clocks from one filled slot to the next: loads follow each other, or each waits for its slot to come round."""
    load = _load(work, chip)
    if work.over_images:
        latency += chip.image_latency
    alone = work.cluster == 1
    handed_back = chip.release if alone else chip.release_remote + chip.cluster_skew
    around = latency + load + _issue(work, chip) + handed_back + 2 * chip.wake + chip.issue_mma * work.taps
    return max(load * work.ctas_per_sm, _issue(work, chip), around / (work.stages - 1))


# A tile's results and traffic.


def _epilogue(work: Work, chip: Chip) -> float:
    """Clocks of a consumer's epilogue, from its last product to its last store.

    The consumers share issue slots, and a chunk waits until stores have read its buffer.
    """
    issue = work.elements * chip.chunk_element
    chunk = max(issue * work.mma_warpgroups, issue + chip.chunk_fixed)
    if work.epi_stages == 1:
        chunk = max(chunk, issue + chip.store_read)
    if work.ahead is not None:
        chunk = max(chunk, (issue + chip.store_read + chip.lat_dram) / max(1, work.ahead))
    return chip.mma_drain + chip.issue_tile_consumer + work.chunks * chunk + chip.wake


class _Traffic(NamedTuple):
    """Traffic from global memory.

    step_bytes  bytes of a block's step
    fresh       part of the steps whose pixels nobody has loaded before
    """

    step_bytes: float
    fresh: float


def _traffic(work: Work, chip: Chip) -> _Traffic:
    """Traffic from global memory: pixels and weights come once, and again as far as L2 does not keep what is under way."""
    rounds = sum(count for count, _ in work.rounds)
    lost = max(0.0, 1 - chip.l2_mb * 2**20 / work.held_bytes)
    wanted = max(1.0, work.all_steps * work.cluster * work.pixel_bytes / work.pixel_readers)
    pixels = min(wanted, work.input_bytes + lost * max(0.0, wanted - work.input_bytes))
    weights = min(work.all_steps * work.weight_bytes, work.weights_bytes * (1 + lost * (rounds - 1)))
    ease = chip.image_dram if work.over_images else 1.0
    return _Traffic((pixels / ease + weights) / max(1.0, work.all_steps * work.cluster), pixels / wanted)

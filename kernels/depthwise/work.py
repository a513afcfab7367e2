"""Counts of what a tiling costs: multiply-adds, bytes, fragments. But for `TENSOR_MACS`, nothing here is a model."""

import math

from .. import geometry
from ..cost import Work
from ..gpu import ANY_HOPPER, WARPGROUP, Gpu
from .plan import CHANNELS, PIXELS, Config, Problem
from .tiling import Tiling, tiling

# What the product of a pixel's channel with a tap costs, in multiply-adds of wgmma, which the cost model counts in; by the
# itemsize of operands. In 16 bits, mma.sync does eight, with all channels of a warp, and runs at five eighths of wgmma's rate.
# In float32, an SM does 128 a clock, where wgmma does 1024 in TF32; there is one for every channel of a group.
TENSOR_MACS = {2: 8 * 8 / 5, 4: 8.0}


def useful_macs(problem: Problem) -> int:
    """The multiply-adds of the definition: taps over padding count, stuffed zeros do not. A backward pass has two each."""
    taps = [sum(-(-(d.out_size - p) // d.out_stride) * n for p, n in enumerate(d.count)) for d in problem.dims]
    pairs = problem.groups * problem.pixel_group * problem.output_group
    return problem.batch * pairs * math.prod(taps) * (2 if problem.backward else 1)


def shaped_like_output(problem: Problem) -> tuple[int, int]:
    """Bytes of an element of all (operands, results) that are shaped like an output: partner and residual, outputs."""
    operands = problem.weight_sums * problem.itemsize + problem.residual * problem.out_itemsize
    return operands, problem.outputs * problem.out_itemsize


def result_bytes(problem: Problem) -> int:
    """Bytes of all outputs, and of the residual and the partner, which are shaped like one."""
    return elements(problem) * sum(shaped_like_output(problem))


def elements(problem: Problem) -> int:
    """Number of elements of what is shaped like an output."""
    return problem.batch * problem.groups * problem.output_group * math.prod(d.out_size for d in problem.dims)


def pixel_bytes(problem: Problem) -> int:
    """Bytes of all pixels that lie where some tap reads, or between, and of what an activation saved of them."""
    space = (max(0, min(d.in_size, last) - max(0, first)) for d in problem.dims for first, last in [_read(d)])
    channels = problem.groups * problem.pixel_group
    return problem.batch * channels * math.prod(space) * problem.itemsize * problem.loaded


def _read(d: geometry.TapAxis) -> tuple[int, int]:
    """The range [first, last) of inputs from the first to the last that a tap reads."""
    starts = [
        (p, offset, offset + (n - 1) * d.tap_stride)
        for p, (n, offset) in enumerate(zip(d.count, d.offset, strict=True))
        if n
    ]
    outputs = lambda p: -(-(d.out_size - p) // d.out_stride)
    return min(low for _, low, _ in starts), max((outputs(p) - 1) * d.in_stride + high for p, _, high in starts) + 1


def weight_bytes(problem: Problem) -> int:
    """Bytes of all weights, and of their gradients, which are float32 if a whole backward pass makes them."""
    read = 0 if problem.weight_sums and not problem.backward else problem.itemsize
    written = problem.weight_sums * (4 if problem.backward else problem.out_itemsize)
    return problem.groups * problem.pixel_group * problem.output_group * problem.taps * (read + written)


def least_bytes(problem: Problem) -> int:
    """The least traffic with global memory, in bytes: every operand read once, every result written once."""
    return pixel_bytes(problem) + weight_bytes(problem) + result_bytes(problem)


def tiles(t: Tiling) -> int:
    """Number of tiles of all thread blocks."""
    images, planes, _, columns, channels = t.grid
    return images * planes * t.row_tiles * columns * channels


def chunks(t: Tiling) -> int:
    """Number of chunks that all thread blocks load: each strip those that its last tile reaches beyond its own, too."""
    return tiles(t) * t.advance + t.strips * (t.tile_chunks - t.advance)


def executed_macs(problem: Problem, cfg: Config) -> int:
    """The multiply-adds of fragments, taps and groups that the kernel issues, ragged tiles whole, padding included."""
    t = tiling(problem, cfg)
    return tiles(t) * cfg.consumers * t.tile_products * PIXELS * CHANNELS * problem.group


def loaded_bytes(problem: Problem, cfg: Config) -> int:
    """Bytes that the kernel loads into shared memory."""
    t = tiling(problem, cfg)
    residual = cfg.consumers * t.staged_pixels * CHANNELS * problem.out_itemsize if problem.residual else 0
    return chunks(t) * t.slot_bytes + tiles(t) * (residual + t.partner_bytes)


def partial_bytes(t: Tiling, gpu: Gpu) -> int:
    """Bytes of the partial sums over pixels, of all consumers."""
    return math.prod(t.sums_shape(gpu.num_sms)) * 4 * t.problem.weight_sums


def copied_bytes(problem: Problem) -> tuple[int, int]:
    """Bytes that XLA moves (before, after) the kernel, for whole groups, 16 bytes of channels, strides and phases."""
    given = problem.batch * problem.groups * problem.pixel_group * math.prod(d.in_size for d in problem.dims)
    wanted = elements(problem)
    read, stored = read_elements(problem), stored_elements(problem)
    before = (given + read) * problem.itemsize * problem.loaded if given != read else 0
    operands, results = shaped_like_output(problem)
    copied = stored + wanted if stored != wanted else 0
    return before + operands * copied, results * copied


def stored_elements(problem: Problem) -> int:
    """Number of elements of an output as the kernel stores it: whole 16 bytes of channels, whole phases."""
    unit = 16 // (problem.out_itemsize if problem.outputs else problem.itemsize)
    channels = -(-problem.channels // unit) * unit
    return problem.batch * channels * math.prod(d.rows * d.out_stride for d in problem.dims)


def read_elements(problem: Problem) -> int:
    """Number of elements of the pixels as the kernel reads them: whole 16 bytes of channels, whole strides of columns."""
    unit = 16 // problem.itemsize
    channels = -(-problem.channels // unit) * unit
    planes, rows, columns = problem.dims
    return problem.batch * channels * planes.in_size * rows.in_size * columns.in_rows * columns.in_stride


def count(problem: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> Work:
    """The work of a problem under one of its configurations. A step is a tile, with what its block loads for it on average."""
    t = tiling(problem, cfg)
    workers, (before, after) = t.workers(gpu.num_sms), copied_bytes(problem)
    on_an_sm = 2 if workers > gpu.num_sms else 1
    strips = -(-t.strips // workers)
    loaded = chunks(t) / tiles(t)  # chunks: a strip's first tile loads more
    result = cfg.consumers * t.staged_pixels * CHANNELS * problem.out_itemsize
    twice = problem.backward and problem.on_tensor_cores  # for sums over taps, and over pixels
    fragments = (
        t.tile_fragments * problem.tap_registers * (2 if twice else 1) + t.staged_pixels // PIXELS * problem.weight_sums
    )
    if problem.backward and problem.bias:
        fragments += math.prod(cfg.tile_pixels) // PIXELS  # of the cotangent at the places of outputs
    # The kernel reads padded copies: zeros that fill groups up are traffic.
    pixels = pixel_bytes(problem) * problem.group // problem.pixel_group
    partner = elements(problem) * problem.group // problem.output_group * problem.itemsize * problem.weight_sums
    multiplied = (
        loaded * len(t.residues) * math.prod(t.load_pixels) if problem.derivative else 0
    )  # pixels, by a derivative
    return Work(
        itemsize=problem.itemsize,
        mma_warpgroups=cfg.consumers,
        cluster=1,
        stages=t.tiles_in_ring,
        epi_stages=1,
        over_images=False,
        sms=min(gpu.num_sms, workers),
        ctas_per_sm=on_an_sm,
        rounds=((strips * min(cfg.strip_tiles, t.row_tiles), 1),),
        all_steps=tiles(t),
        macs=int(t.issued_products * PIXELS * CHANNELS * problem.tap_registers * TENSOR_MACS[problem.itemsize]),
        operand_bytes=(fragments * PIXELS + 3 * multiplied) * CHANNELS * problem.itemsize,
        pixel_bytes=int(loaded * t.slot_bytes) + t.partner_bytes,
        weight_bytes=0,
        rows=loaded * len(t.residues) * math.prod(t.load_pixels) + math.prod(t.partner_pixels) * problem.weight_sums,
        copies=math.ceil(loaded) * len(t.residues) + len(problem.phases) * problem.weight_sums,
        taps=1,
        pixel_readers=1,
        kept_bytes=0 if not problem.outputs else problem.loaded_weights * cfg.channels * problem.itemsize,
        chunks=1,
        elements=(t.staged_pixels * problem.outputs + multiplied) * CHANNELS / WARPGROUP,
        stored_bytes=result * (problem.outputs + problem.residual),
        ahead=0 if problem.residual else None,
        input_bytes=pixels + partner,
        weights_bytes=weight_bytes(problem),
        held_bytes=workers * (t.tile_chunks * t.slot_bytes + t.partner_bytes + result * problem.outputs)
        + weight_bytes(problem),
        before_bytes=before,
        after_bytes=after + 2 * partial_bytes(t, gpu),
    )

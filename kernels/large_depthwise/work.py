"""Counts of what a tiling costs: multiply-adds, bytes, words. But for `TENSOR_MACS`, nothing here is a model."""

import math

from ..cost import Work
from ..gpu import ANY_HOPPER, WARPGROUP, Gpu
from .plan import (
    BLOCK,
    CHANNELS,
    CONSUMERS,
    ROWS,
    STEP,
    WARPS,
    Config,
    Problem,
    Rows,
    Tiling,
    stored_channels,
    tiling,
    waves,
    words,
)

INSTRUCTION = BLOCK * ROWS * STEP  # multiply-adds
TENSOR_MACS = 8 / 5  # what one of mma.sync costs, in multiply-adds of wgmma, which the cost model counts in
WAVEFRONT = 128  # bytes of shared memory that a warp's load or store of a word takes


def useful_macs(problem: Problem) -> int:
    """The multiply-adds of the definition, taps over padding counted."""
    return elements(problem) * math.prod(problem.taps)


def elements(problem: Problem) -> int:
    """Number of elements of an output, or of the cotangent of a weight gradient."""
    return problem.batch * problem.channels * math.prod(d.out_size for d in problem.dims)


def pixel_elements(problem: Problem) -> int:
    """Number of elements of the pixels."""
    return problem.batch * problem.channels * math.prod(d.in_size for d in problem.dims)


def weight_bytes(problem: Problem) -> int:
    """Bytes of all weights, or of their gradients."""
    return problem.channels * math.prod(problem.taps) * (problem.out_itemsize if problem.weight_sums else 2)


def least_bytes(problem: Problem) -> int:
    """The least traffic with global memory, in bytes: every operand read once, every result written once."""
    results = elements(problem) * (2 if problem.weight_sums else problem.outputs * problem.out_itemsize)
    return 2 * pixel_elements(problem) + weight_bytes(problem) + results


def loaded_chunks(t: Tiling) -> int:
    """Chunks that are loaded, of all strips down an image. Of a weight gradient each comes with eight rows of the cotangent."""
    if not t.problem.weight_sums:
        return multiplied_chunks(t)
    return sum(max(rows.late + rows.last, t.output_tiles) for rows in _rows(t))


def multiplied_chunks(t: Tiling) -> int:
    """Chunks that are multiplied, of all strips down an image: those with rows of the image."""
    return sum(rows.last - rows.first for rows in _rows(t))


def _rows(t: Tiling) -> list[Rows]:
    return [t.rows_read(strip * t.cfg.strip_rows) for strip in range(t.grid[1])]


def columns_of_strips(t: Tiling) -> int:
    """Number of columns of strips: of all images, columns and channel blocks."""
    return t.strips // t.grid[1]


def executed_macs(problem: Problem, cfg: Config) -> int:
    """The multiply-adds that the kernel issues, zeros included."""
    t = tiling(problem, cfg)
    return columns_of_strips(t) * multiplied_chunks(t) * CHANNELS * t.chunk_products * INSTRUCTION


def loaded_bytes(problem: Problem, cfg: Config) -> int:
    """Bytes of pixels and cotangents that the kernel loads into shared memory."""
    t = tiling(problem, cfg)
    return columns_of_strips(t) * loaded_chunks(t) * t.slot_bytes


def partial_bytes(t: Tiling, gpu: Gpu) -> int:
    """Bytes of the partial sums over pixels, of all thread blocks."""
    if not t.problem.weight_sums:
        return 0
    of_block = CONSUMERS * t.sums * WARPS * BLOCK * ROWS + t.problem.bias * WARPGROUP
    return t.workers(gpu.num_sms) * of_block * 4


def copied_bytes(problem: Problem) -> tuple[int, int]:
    """Bytes that XLA moves (before, after) the kernel, for whole 16 bytes of channels, and more than a thread block has."""
    channels, read, stored = problem.channels, -(-problem.channels // 8) * 8, stored_channels(problem)
    copied = lambda count, others: count // channels * (channels + others) if channels != others else 0
    before = pixel_elements(problem) + problem.weight_sums * elements(problem)
    after = problem.outputs * elements(problem)
    return 2 * copied(before, read), problem.out_itemsize * copied(after, stored)


def count(problem: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> Work:
    """The work of a problem under one of its configurations. A step is a chunk, a tile what a strip has on average."""
    t = tiling(problem, cfg)
    workers, (before, after) = t.workers(gpu.num_sms), copied_bytes(problem)
    strips = waves(workers, gpu.num_sms) * -(-t.strips // workers)
    chunks = multiplied_chunks(t) / t.grid[1]
    of_row = 2 * words(t.blocks, t.steps)
    of_groups = sum(len(t.groups_of_row(row)) for row in range(ROWS)) * t.steps * 2
    read = (ROWS * of_row + of_groups) * WARPS * WAVEFRONT
    transposed = math.prod(t.loaded_shapes[0]) / 64 * 3 * WAVEFRONT / CONSUMERS  # two loads and a store for 64 elements
    stored = t.output_tiles * t.staged_bytes
    return Work(
        itemsize=2,
        mma_warpgroups=CONSUMERS,
        cluster=1,
        stages=cfg.stages + 1,
        epi_stages=2,
        over_images=False,
        sms=min(gpu.num_sms, workers),
        ctas_per_sm=1,  # registers do not allow two
        rounds=((strips, chunks),),
        all_steps=columns_of_strips(t) * multiplied_chunks(t),
        macs=int(WARPS * t.chunk_products * INSTRUCTION * TENSOR_MACS),
        operand_bytes=read + transposed,
        pixel_bytes=t.slot_bytes,
        weight_bytes=0,
        rows=sum(math.prod(shape[:2]) for shape in t.loaded_shapes),
        copies=len(t.loaded_shapes),
        taps=1,
        pixel_readers=1,
        kept_bytes=0 if problem.weight_sums else 2 * math.prod(t.right_shape),
        chunks=t.output_tiles if problem.outputs else 1,
        elements=problem.outputs * ROWS * cfg.columns * WARPS / WARPGROUP,
        stored_bytes=stored,
        ahead=None,
        input_bytes=2 * (pixel_elements(problem) + elements(problem) * problem.weight_sums),
        weights_bytes=weight_bytes(problem),
        held_bytes=workers * (cfg.stages * t.slot_bytes + stored) + weight_bytes(problem),
        before_bytes=before,
        after_bytes=after + 2 * partial_bytes(t, gpu),
    )

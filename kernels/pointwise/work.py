"""Counts of what a tiling costs: multiply-adds, bytes, steps. Nothing here is a model or a measurement."""

import math

from ..cost import Work
from ..gpu import ANY_HOPPER, WARPGROUP, Gpu
from .plan import BUFFERS, CHUNK, CONSUMERS, ITEMSIZE, PIXELS, Config, Problem, Tiling, tiling

UNIT = 16 // ITEMSIZE  # channels in 16 bytes, of which TMA's strides are multiples
# Instructions of a thread for each element of the cotangent that it multiplies by a derivative, or sums, counted in compiled
# kernels; and for an element that an epilogue stores.
INSTRUCTIONS = {
    None: 3,
    "relu": 14,
    "leaky_relu": 13,
    "tanh": 15,
    "sigmoid": 15,
    "silu": 28,
    "gelu": 49,
    "gelu_tanh": 44,
}
STORED_INSTRUCTIONS = 3


def useful_macs(problem: Problem) -> int:
    """The multiply-adds of the definition: those of the input gradient, and those of the weight gradient."""
    return 2 * problem.pixels * problem.in_channels * problem.out_channels


def operand_bytes(problem: Problem) -> int:
    """Bytes of x, of the cotangent, and of what the activation saved."""
    return problem.pixels * (problem.in_channels + problem.cotangents * problem.out_channels) * ITEMSIZE


def least_bytes(problem: Problem) -> int:
    """The least traffic with global memory, in bytes: every operand read once, every result written once."""
    dx = problem.pixels * problem.in_channels * problem.out_itemsize
    return operand_bytes(problem) + dx + weights_bytes(problem)


def weights_bytes(problem: Problem) -> int:
    """Bytes of the weights, and of the gradients of weights and biases, which are float32."""
    weights = problem.in_channels * problem.out_channels * (ITEMSIZE + 4)
    return problem.examples * (weights + 4 * problem.bias * problem.out_channels)


def workspace_bytes(t: Tiling) -> int:
    """Bytes of partial sums that lie in global memory until XLA has added them."""
    return 4 * (math.prod(t.sums_shape) + t.problem.bias * math.prod(t.bias_shape))


def executed_macs(problem: Problem, cfg: Config) -> int:
    """The multiply-adds that the kernel issues: ragged boxes and blocks whole."""
    t = tiling(problem, cfg)
    return all_steps(t) * CONSUMERS * _step_macs(t)


def loaded_bytes(problem: Problem, cfg: Config) -> int:
    """Bytes that the kernel loads into shared memory."""
    t = tiling(problem, cfg)
    return all_steps(t) * t.step_bytes + t.blocks * t.weight_bytes


def all_steps(t: Tiling) -> int:
    """Steps of all thread blocks."""
    return t.problem.examples * t.n_tiles * t.steps


def read_elements(problem: Problem) -> tuple[int, int]:
    """Numbers of elements of x and of the cotangent as the kernel reads them: whole 16 bytes of channels."""
    whole = lambda channels: -(-channels // UNIT) * UNIT
    return problem.pixels * whole(problem.in_channels), problem.pixels * whole(problem.out_channels)


def stored_elements(problem: Problem) -> int:
    """Number of elements of the input gradient as the kernel stores it."""
    unit = 16 // problem.out_itemsize
    return problem.pixels * -(-problem.in_channels // unit) * unit


def _step_macs(t: Tiling) -> int:
    """Multiply-adds of one consumer in a step."""
    of_dx = CHUNK * t.row_blocks * t.column_blocks
    return (of_dx + t.summed_pixels * t.own_blocks) * CHUNK * CHUNK


def _copied_bytes(problem: Problem) -> tuple[int, int]:
    """Bytes that XLA moves (before, after) the kernel, for whole 16 bytes of channels."""
    before, given = 0, (problem.in_channels, problem.out_channels)
    for channels, read, arrays in zip(given, read_elements(problem), (1, problem.cotangents), strict=True):
        if read != (size := problem.pixels * channels):
            before += (read + size) * ITEMSIZE * arrays
    stored, wanted = stored_elements(problem), problem.pixels * problem.in_channels
    return before, (stored + wanted) * problem.out_itemsize if stored != wanted else 0


def count(problem: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> Work:
    """The work of a problem under one of its configurations. Each step ends with an epilogue: its input gradient is stored."""
    t = tiling(problem, cfg)
    before, after = _copied_bytes(problem)
    sms, steps = min(gpu.num_sms, t.blocks), -(-t.steps // cfg.split_k)
    chunks = t.column_blocks * CHUNK // t.staged_columns
    rows = t.row_blocks * t.column_blocks * CHUNK + t.own_blocks * t.summed_pixels  # of either operand of the products
    # The producer goes through the cotangent while consumers multiply. Both want the same issue slots, so the model has it as a
    # part of the epilogue. Of shared memory, it reads the cotangent, and what was saved, and writes their product.
    touched = t.row_blocks * PIXELS * CHUNK / CONSUMERS * (problem.bias or problem.derivative is not None)
    accesses = 3 if problem.derivative else 1
    instructions = touched * INSTRUCTIONS[problem.derivative] / STORED_INSTRUCTIONS
    # Of a step, what lies beyond the channels that there are is neither read nor stored.
    columns = problem.in_channels / t.n_tiles
    read = PIXELS * (problem.cotangents * problem.out_channels + columns) * ITEMSIZE
    stored = PIXELS * columns * problem.out_itemsize
    return Work(
        itemsize=ITEMSIZE,
        mma_warpgroups=CONSUMERS,
        cluster=1,
        stages=max(2, (cfg.stages - t.late_slots) // t.slots + (t.late_slots > 0)),
        epi_stages=BUFFERS,
        over_images=cfg.step_pixels[0] > 1,
        sms=sms,
        ctas_per_sm=1,
        rounds=((-(-t.blocks // gpu.num_sms) * steps, 1),),
        all_steps=all_steps(t),
        macs=_step_macs(t),
        operand_bytes=(2 * rows * CHUNK + accesses * touched) * ITEMSIZE,
        pixel_bytes=int(read),
        weight_bytes=0,
        rows=t.step_bytes / (CHUNK * ITEMSIZE),
        copies=problem.cotangents * t.row_blocks + t.column_blocks,
        taps=1,
        pixel_readers=1,
        kept_bytes=t.weight_bytes,
        chunks=chunks,
        elements=(CHUNK * t.staged_columns + instructions / chunks) / WARPGROUP,
        stored_bytes=int(stored),
        ahead=None,
        input_bytes=operand_bytes(problem),
        weights_bytes=0,
        held_bytes=sms * (2 * read + stored),
        before_bytes=before,
        after_bytes=after + 2 * workspace_bytes(t),
    )

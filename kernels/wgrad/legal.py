"""The rules that make a configuration of the weight-gradient kernel legal, each with the reason it gives otherwise."""

import math

from ..gpu import ANY_HOPPER, MAX_ELEMENTS, MOST_BARRIERS, Generation, Gpu
from .plan import Config, M, Problem, Tiling, tiling

MOST_ACCUMULATORS = 144  # registers of sums: with more of them ptxas spilled

# Registers of a thread beside those of the sums, as ptxas was found to need them. With fewer it spills, or serializes wgmma.
SPARE = 30  # dy in shared memory
SPARE_OF_ROWS = 42  # the same, if neighbouring outputs of a row are taken as one
SPARE_WITH_DY = 62  # dy in registers
SPARE_OF_FEW = 78  # dy in registers, steps of over 64 pixels, and threads of at most FEW_REGISTERS
FEW_REGISTERS = 128  # what a thread may have if an SM holds four warpgroups

# Products of 16 columns are many. Each takes eight registers of sums, and four of addresses. Beside all of them:
NARROW = 16
SPARE_OF_NARROW = 46
SPARE_WITH_BIAS = 8  # more, for a bias gradient
SPARE_OF_LONG_STEPS = 16  # and more, if steps are of over 64 pixels


def illegal(raw: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> str | None:
    """The reason why the kernel does not take a configuration, or None."""
    oriented = raw.oriented(cfg)
    if not oriented.single_phase:
        return f"{cfg.transposed=} leaves several phases of outputs: a convolution takes False, a transposed one True"
    if why := illegal_mapping(oriented, cfg):
        return why
    problem = raw.under(cfg)
    if why := illegal_box(problem, cfg):
        return why
    if problem.bias and (cfg.transposed or not cfg.dy_registers or problem.terms > 1):
        return (
            "a bias gradient is summed from dy in registers, of 16 bits and not transposed: "
            f"{cfg.dy_registers=} must be True, {cfg.transposed=} must be False, and {problem.terms=} must be 1"
        )
    if cfg.tile_n not in ((16, 32, 64) if cfg.dy_registers else (64,)):
        return f"{cfg.tile_n=} must be 64, or with dy in registers 32 or 16: wgmma's operands have one swizzle"
    if cfg.multicast not in ("", "x", "dy"):
        return f"{cfg.multicast=} must be '', 'x' or 'dy'"
    if min(cfg.taps_per_tile, cfg.channel_loads, cfg.m_warpgroups, cfg.n_warpgroups) < 1:
        return f"{cfg.taps_per_tile=}, {cfg.channel_loads=}, {cfg.m_warpgroups=} and {cfg.n_warpgroups=} must be at least 1"
    if cfg.mma_warpgroups > 3 or cfg.x_loads % cfg.n_warpgroups:
        return f"{cfg.m_warpgroups=} * {cfg.n_warpgroups=} must be at most 3, and divide {cfg.x_loads=} loads of x"
    if cfg.ctas_per_sm not in (1, 2):
        return f"{cfg.ctas_per_sm=} must be 1 or 2"
    if cfg.cluster > gpu.num_sms:
        return f"{cfg.cluster=} must be at most {gpu.num_sms=}"
    t = tiling(raw, cfg)
    if cfg.taps_per_tile > math.prod(t.tap_loads):
        return f"{cfg.taps_per_tile=} must be at most {math.prod(t.tap_loads)}"
    if cfg.multicast and (why := _illegal_multicast(t)):
        return why
    if not 2 <= cfg.stages <= MOST_BARRIERS:  # a slot is released once the next one is multiplied
        return f"{cfg.stages=} must be 2 to {MOST_BARRIERS}"
    if why := _illegal_split(t):
        return why
    if max(*problem.elements, math.prod(t.out_shape)) > MAX_ELEMENTS:
        return f"{problem.elements=} of x and dy, and {t.out_shape=}, must be at most {MAX_ELEMENTS}"
    if t.accumulators > (most := most_accumulators(problem, cfg, gpu.generation)):
        return f"{t.accumulators=} registers of sums must be at most {most}"
    if t.smem_bytes > (limit := gpu.generation.smem_limit(cfg.ctas_per_sm)):
        return f"{t.smem_bytes=} must be at most {limit}"
    return None


def illegal_mapping(oriented: Problem, cfg: Config) -> str | None:
    """The reason why pixels cannot become channels as a configuration wants, or None."""
    if cfg.space_to_depth and any(axis.base > 1 or axis.dilation > 1 for axis in oriented.axes):
        return f"{cfg.space_to_depth=} takes dimensions without dilations"
    if cfg.space_to_depth and all(axis.stride == 1 for axis in oriented.axes):
        return f"{cfg.space_to_depth=} takes a stride"
    if cfg.row_outputs < 1:
        return f"{cfg.row_outputs=} must be at least 1"
    last = oriented.axes[-1]
    if cfg.row_outputs > 1 and (
        last.base > 1 or last.dilation > 1 or last.out_size % cfg.row_outputs or oriented.groups > 1
    ):
        return f"{cfg.row_outputs=} takes one group, and a last dimension of a multiple of so many outputs, without dilations"
    return None


def most_accumulators(problem: Problem, cfg: Config, generation: Generation) -> int:
    """The most registers of a thread that may hold sums: what its block leaves it, less what else it needs."""
    registers = generation.register_limit((cfg.mma_warpgroups + 1) * cfg.ctas_per_sm)
    spare = SPARE_WITH_DY if cfg.dy_registers else SPARE_OF_ROWS if cfg.row_outputs > 1 else SPARE
    if cfg.dy_registers and cfg.pixels > 64 and registers <= FEW_REGISTERS:
        spare = max(spare, SPARE_OF_FEW)
    most = min(MOST_ACCUMULATORS, registers - spare)
    if cfg.tile_n != NARROW:
        return most
    spare = SPARE_OF_NARROW + SPARE_WITH_BIAS * problem.bias + SPARE_OF_LONG_STEPS * (cfg.pixels > 64)
    return min(most, (registers - spare) * 8 // (8 + 4))


def illegal_box(problem: Problem, cfg: Config) -> str | None:
    """The reason against the pixels of a step, or None. problem: as the kernel computes it."""
    nd, box = len(problem.dims), cfg.step_pixels
    if len(box) != nd + 1 or min(box) < 1 or cfg.pixels % 64 or max(box) > 256:
        return f"{cfg.step_pixels=} must be (images, *pixels) of a multiple of 64 pixels, at most 256 along each"
    if cfg.dy_registers and cfg.pixels not in (64, 128):
        return f"{cfg.step_pixels=} must be of 64 or 128 pixels: {cfg.dy_registers=} holds so many"
    if (problem.examples > 1 or problem.terms > 1) and problem.batch % box[0]:
        return f"{box[0]} images of {cfg.step_pixels=} must divide {problem.batch}: a box is of one example"
    if nd == 3 and box[0] > 1 and (problem.groups > 1 or any(d.in_stride > 1 for d in problem.dims)):
        return f"{cfg.step_pixels=} must be of one image: a TMA copy has five dimensions"
    return _illegal_halo(problem, cfg) if cfg.halo else None


def _illegal_halo(problem: Problem, cfg: Config) -> str | None:
    box = cfg.step_pixels
    halo_dim = next((i for i, e in enumerate(box[1:]) if e > 1), None)
    if halo_dim is None or box[0] > 1 or math.prod(box[2 + halo_dim :]) % 8:
        return f"{cfg.step_pixels=} must be of one image, with multiples of 8 pixels beyond its first tiled dimension"
    d = problem.dims[halo_dim]
    if d.in_stride > 1 or d.count[0] < 2:
        return "a halo needs several taps and no stride"
    if box[1 + halo_dim] + (d.count[0] - 1) * d.tap_stride > 256:
        return "a TMA box is at most 256 long"
    return None


def _illegal_multicast(t: Tiling) -> str | None:
    cfg, p = t.cfg, t.problem
    box = t.load_pixels if cfg.multicast == "x" else cfg.step_pixels
    if next(e for e in box if e > 1) % 2:
        return f"{cfg.multicast=} divides the first axis of a box {box} that is longer than 1: it must be even"
    of_x, of_dy = (p.out_channels, M * cfg.m_warpgroups), (p.in_channels, cfg.tile_n * cfg.channel_loads)
    served, one = of_x if cfg.multicast == "x" else of_dy
    if served <= one:
        return f"{cfg.multicast=} needs two tiles to share with: {served} channels are one"
    return None


def _illegal_split(t: Tiling) -> str | None:
    p = t.problem
    steps = t.image_steps * math.prod(-(-d.rows // e) for d, e in zip(p.dims, t.cfg.step_pixels[1:], strict=True))
    if not 1 <= t.cfg.split_k <= steps:
        return f"{t.cfg.split_k=} must be at least 1, and at most the {steps} steps over pixels"
    if steps * t.cfg.split_k > MAX_ELEMENTS:
        return f"{steps=} times {t.cfg.split_k=} must be at most {MAX_ELEMENTS}"
    return None

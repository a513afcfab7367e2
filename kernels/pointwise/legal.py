"""The rules that make a configuration of the pointwise kernel legal, each with the reason it gives otherwise."""

import math

from ..gpu import ANY_HOPPER, MAX_ELEMENTS, MOST_BARRIERS, WARPGROUP, Gpu
from .plan import CHUNK, CONSUMERS, PIXELS, Config, Problem, Tiling, tiling

MOST_READS = 2  # of the cotangent, by blocks of different input channels: with more, two kernels read it as rarely
SPARE = 30  # registers beside the sums, as ptxas was found to need them


def illegal(problem: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> str | None:
    """The reason why the kernel does not take a configuration, or None."""
    if why := illegal_box(problem, cfg):
        return why
    if cfg.tile_n < CHUNK or cfg.tile_n % CHUNK:
        return f"{cfg.tile_n=} must be a multiple of {CHUNK}"
    t = tiling(problem, cfg)
    if t.n_tiles > MOST_READS:
        return (
            f"{cfg.tile_n=} divides {problem.in_channels} input channels among {t.n_tiles} blocks, which all read the "
            f"cotangent: at most {MOST_READS} should"
        )
    if not t.least_stages <= cfg.stages <= MOST_BARRIERS:
        return f"{cfg.stages=} must be {t.least_stages} to {MOST_BARRIERS}"
    if not 1 <= cfg.split_k <= t.steps:
        return f"{cfg.split_k=} must be at least 1, and at most the {t.steps} steps over pixels"
    if (most := max(t.steps * cfg.split_k, math.prod(t.sums_shape))) > MAX_ELEMENTS:
        return f"{most} steps or sums must be at most {MAX_ELEMENTS}"
    if (needed := registers(t)) > (limit := gpu.generation.register_limit(CONSUMERS + 1)):
        return f"{needed=} registers must be at most {limit}"
    if (smem_bytes := t.buffer_bytes + t.barrier_bytes) > (limit := gpu.generation.smem_limit(cfg.ctas_per_sm)):
        return f"{smem_bytes=} must be at most {limit}"
    return None


def illegal_box(problem: Problem, cfg: Config) -> str | None:
    """The reason against the pixels of a step, or None."""
    box = cfg.step_pixels
    if len(box) != len(problem.dims) + 1 or min(box) < 1 or math.prod(box) != PIXELS:
        return f"{cfg.step_pixels=} must be (images, *pixels), of {PIXELS} pixels"
    if problem.examples > 1 and problem.batch % box[0]:
        return f"{box[0]} images of {cfg.step_pixels=} must divide {problem.batch}: a box is of one example"
    return None


def registers(t: Tiling) -> int:
    """Registers of a consumer's thread: the sums of weight gradients, those of one block of dx, and all else."""
    return (t.own_blocks + 1) * CHUNK * CHUNK // WARPGROUP + SPARE

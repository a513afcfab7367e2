"""Which configurations of the dense kernel are legal for a problem, and what is against the others."""

import math

from .. import geometry
from ..gpu import ANY_HOPPER, Generation, Gpu
from .plan import Config, Problem, pixels_as_read, tiling

MAX_ELEMENTS = 2**31 - 1  # of an array: indices are 32 bits
MOST_BARRIERS = 32  # barriers of one kind that Mosaic takes
LEAST_WIDTH = 16  # output channels of a tile: 32 bytes of them are the narrowest swizzle


def illegal(raw: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> str | None:
    """Why the kernel does not take a configuration, or None."""
    nd, box = len(raw.dims), cfg.box
    if cfg.unfold and raw.dims[-1].out_stride > 1:
        return f"{cfg.unfold=} takes a last dimension of one output phase"
    if cfg.fold and (why := illegal_fold(raw, cfg)):
        return why
    problem = raw.under(cfg)
    if cfg.consumers not in (1, 2) or cfg.cluster not in (1, 2) or cfg.blocks not in (1, 2):
        return f"{cfg.consumers=}, {cfg.cluster=} and {cfg.blocks=} must be 1 or 2"
    if cfg.cluster > gpu.num_sms:
        return f"{cfg.cluster=} must be at most {gpu.num_sms=}"
    if cfg.taps < 1 or cfg.out_bufs < 1:
        return f"{cfg.taps=} and {cfg.out_bufs=} must be at least 1"
    if len(box) != nd + 1 or cfg.pixels not in (64, 128):
        return f"{cfg.box=} must be (images, *pixels) with a product of 64 or 128"
    # Accumulators: more would leave too few registers to an epilogue that adds a residual, or places phases of volumes; or
    # to a second block on the SM.
    most = 128 * (96 if problem.residual or (nd == 3 and problem.phases > 1) else 128) // cfg.blocks
    if cfg.bn % LEAST_WIDTH or not LEAST_WIDTH <= cfg.bn <= 256 or cfg.pixels * cfg.bn > most:
        return f"{cfg.bn=} must be a multiple of {LEAST_WIDTH} up to 256, and {cfg.pixels=} * bn at most {most}"
    if cfg.bk * problem.itemsize not in (32, 64, 128):
        return f"{cfg.bk=} must be 32, 64 or 128 bytes"
    if (
        nd == 3
        and box[0] > 1
        and (problem.G * cfg.split > 1 or any(d.in_stride * d.out_stride > 1 for d in problem.dims))
    ):
        return f"{cfg.box=} must be of one image: a TMA copy has five dimensions"
    if cfg.halo and (why := _illegal_halo(problem, cfg, gpu.generation)):
        return why
    if not 1 <= cfg.split <= -(-problem.C // cfg.bk):
        return f"{cfg.split=} must be at least 1, and at most the steps over {problem.C} channels"
    if cfg.resident and (problem.G * cfg.split * cfg.taps * cfg.cluster > 1 or cfg.bn < problem.K):
        return f"{cfg.resident=} takes one group, one part, one tap a step, no cluster, and at most {cfg.bn=} output channels"
    if cfg.unfold and (pixels := pixels_as_read(problem)) > MAX_ELEMENTS:
        return f"{pixels=} unfolded by {cfg.unfold=} must be at most {MAX_ELEMENTS}"
    stored = math.prod(d.rows * d.out_stride for d in problem.dims) * problem.outputs * problem.G
    if cfg.finished_by_xla and (sums := problem.N * stored * (-(-problem.K // 4) * 4)) > MAX_ELEMENTS:
        return f"{sums=} stored by {cfg.split=} or {cfg.fold=} must be at most {MAX_ELEMENTS}"
    if not 2 <= cfg.stages <= MOST_BARRIERS:  # a slot is released once the next one is multiplied
        return f"{cfg.stages=} must be 2 to {MOST_BARRIERS}"
    if problem.residual and cfg.consumers * cfg.out_bufs > MOST_BARRIERS:
        return f"{cfg.consumers=} * {cfg.out_bufs=} must be at most {MOST_BARRIERS}: a residual needs so many barriers"
    if (smem_bytes := tiling(raw, cfg).smem_bytes) > (limit := gpu.generation.smem_limit(cfg.blocks)):
        return f"{smem_bytes=} must be at most {limit}"
    return None


def illegal_fold(problem: Problem, cfg: Config) -> str | None:
    """Why taps of so many dimensions cannot become output channels, or None."""
    if not 0 <= cfg.fold <= len(problem.dims):
        return f"{cfg.fold=} must be a number of dimensions, of {len(problem.dims)}"
    if any(d.in_stride > 1 for d in problem.dims[-cfg.fold :]):
        return f"{cfg.fold=} takes dimensions without a stride"
    if cfg.unfold or cfg.split > 1:
        return f"{cfg.fold=} takes neither {cfg.unfold=} nor {cfg.split=}"
    return None


def _illegal_halo(problem: Problem, cfg: Config, generation: Generation) -> str | None:
    nd, box = len(problem.dims), cfg.box
    halo_dim = next((i for i, e in enumerate(box[1:]) if e > 1), nd)
    if halo_dim >= nd - 1 or box[0] > 1 or math.prod(box[2 + halo_dim :]) % 8:
        return f"{cfg.box=} must be of one image, with multiples of 8 pixels beyond its first tiled dimension"
    d = problem.dims[halo_dim]
    if len(set(d.count)) > 1 or d.count[0] <= d.sheets:
        return "a halo needs the same number of taps in every phase, and two that are whole strides apart"
    if box[1 + halo_dim] * cfg.consumers + d.in_sheet(d.count[0] - 1)[1] > 256:
        return "a TMA box is at most 256 long"
    registers = _registers_of_halo(problem, d, cfg)
    if d.count[0] > 8 and registers > (limit := generation.register_limit(cfg.blocks)):
        return f"{registers=} of a halo of {d.count[0]} taps must be at most {limit}"
    return None


def _registers_of_halo(problem: Problem, d: geometry.Dim, cfg: Config) -> int:
    """The most registers of a thread that ptxas was found to need, with any epilogue: it computes addresses of taps ahead."""
    accumulators, taps = cfg.pixels * cfg.bn // 128, d.count[0]
    if d.in_stride > 1:
        return 2 * (accumulators + taps) + 14 + 12 * problem.residual
    return accumulators + cfg.pixels // 8 + 60 + taps * (2 + cfg.resident * cfg.pixels // 64)

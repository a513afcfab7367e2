"""The rules that make a configuration of the dense kernel legal for a problem, each with the reason it gives otherwise."""

import math

from .. import geometry
from ..gpu import ANY_HOPPER, MAX_ELEMENTS, MOST_BARRIERS, Generation, Gpu
from .plan import Config, Problem, pixels_as_read, tiling

LEAST_WIDTH = 16  # output channels of a tile: 32 bytes of them are the narrowest swizzle


def illegal(raw: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> str | None:
    """The reason why the kernel does not take a configuration, or None."""
    nd, box = len(raw.dims), cfg.tile_pixels
    if cfg.im2col and raw.dims[-1].out_stride > 1:
        return f"{cfg.im2col=} takes a last dimension of one output phase"
    if cfg.col2im_dims and (why := illegal_col2im(raw, cfg)):
        return why
    problem = raw.under(cfg)
    if cfg.mma_warpgroups not in (1, 2) or cfg.cluster not in (1, 2) or cfg.ctas_per_sm not in (1, 2):
        return f"{cfg.mma_warpgroups=}, {cfg.cluster=} and {cfg.ctas_per_sm=} must be 1 or 2"
    if cfg.cluster > gpu.num_sms:
        return f"{cfg.cluster=} must be at most {gpu.num_sms=}"
    if cfg.taps_per_step < 1 or cfg.epi_stages < 1:
        return f"{cfg.taps_per_step=} and {cfg.epi_stages=} must be at least 1"
    if len(box) != nd + 1 or cfg.tile_m not in (64, 128):
        return f"{cfg.tile_pixels=} must be (images, *pixels) with a product of 64 or 128"
    # Accumulators: more would leave too few registers to an epilogue that adds a residual, or places phases of volumes; or
    # to a second block on the SM.
    most = 128 * (96 if problem.residual or (nd == 3 and problem.phases > 1) else 128) // cfg.ctas_per_sm
    if cfg.tile_n % LEAST_WIDTH or not LEAST_WIDTH <= cfg.tile_n <= 256 or cfg.tile_m * cfg.tile_n > most:
        return f"{cfg.tile_n=} must be a multiple of {LEAST_WIDTH} up to 256, and {cfg.tile_m=} * tile_n at most {most}"
    if cfg.tile_k * problem.itemsize not in (32, 64, 128):
        return f"{cfg.tile_k=} must be 32, 64 or 128 bytes"
    if (
        nd == 3
        and box[0] > 1
        and (problem.groups * cfg.split_k > 1 or any(d.in_stride * d.out_stride > 1 for d in problem.dims))
    ):
        return f"{cfg.tile_pixels=} must be of one image: a TMA copy has five dimensions"
    if cfg.halo and (why := _illegal_halo(problem, cfg, gpu.generation)):
        return why
    if not 1 <= cfg.split_k <= -(-problem.in_channels // cfg.tile_k):
        return f"{cfg.split_k=} must be at least 1, and at most the steps over {problem.in_channels} channels"
    if cfg.resident and (
        problem.groups * cfg.split_k * cfg.taps_per_step * cfg.cluster > 1 or cfg.tile_n < problem.out_channels
    ):
        return (
            f"{cfg.resident=} takes one group, one part, one tap a step, no cluster, and {cfg.tile_n=} output channels"
        )
    if cfg.im2col and (pixels := pixels_as_read(problem)) > MAX_ELEMENTS:
        return f"{pixels=} made channels by {cfg.im2col=} must be at most {MAX_ELEMENTS}"
    stored = math.prod(d.rows * d.out_stride for d in problem.dims) * problem.outputs * problem.groups
    if cfg.finished_by_xla and (sums := problem.batch * stored * (-(-problem.out_channels // 4) * 4)) > MAX_ELEMENTS:
        return f"{sums=} stored by {cfg.split_k=} or {cfg.col2im_dims=} must be at most {MAX_ELEMENTS}"
    if not 2 <= cfg.stages <= MOST_BARRIERS:  # a slot is released once the next one is multiplied
        return f"{cfg.stages=} must be 2 to {MOST_BARRIERS}"
    if problem.residual and cfg.mma_warpgroups * cfg.epi_stages > MOST_BARRIERS:
        return f"{cfg.mma_warpgroups=} * {cfg.epi_stages=} must be at most {MOST_BARRIERS}: a residual needs so many barriers"
    if (smem_bytes := tiling(raw, cfg).smem_bytes) > (limit := gpu.generation.smem_limit(cfg.ctas_per_sm)):
        return f"{smem_bytes=} must be at most {limit}"
    return None


def illegal_col2im(problem: Problem, cfg: Config) -> str | None:
    """The reason why taps of so many dimensions cannot become output channels, or None."""
    if not 0 <= cfg.col2im_dims <= len(problem.dims):
        return f"{cfg.col2im_dims=} must be a number of dimensions, of {len(problem.dims)}"
    if any(d.in_stride > 1 for d in problem.dims[-cfg.col2im_dims :]):
        return f"{cfg.col2im_dims=} takes dimensions without a stride"
    if cfg.im2col or cfg.split_k > 1:
        return f"{cfg.col2im_dims=} takes neither {cfg.im2col=} nor {cfg.split_k=}"
    return None


def _illegal_halo(problem: Problem, cfg: Config, generation: Generation) -> str | None:
    nd, box = len(problem.dims), cfg.tile_pixels
    halo_dim = next((i for i, e in enumerate(box[1:]) if e > 1), nd)
    if halo_dim >= nd - 1 or box[0] > 1 or math.prod(box[2 + halo_dim :]) % 8:
        return f"{cfg.tile_pixels=} must be of one image, with multiples of 8 pixels beyond its first tiled dimension"
    d = problem.dims[halo_dim]
    if len(set(d.count)) > 1 or d.count[0] <= d.residues:
        return "a halo needs the same number of taps in every phase, and two that are whole strides apart"
    if box[1 + halo_dim] * cfg.mma_warpgroups + d.box_of_tap(d.count[0] - 1)[1] > 256:
        return "a TMA box is at most 256 long"
    registers = _registers_of_halo(problem, d, cfg)
    warpgroups = 3 if cfg.ctas_per_sm == 1 else 4  # of an SM: one block of two consumers, or two of one
    if d.count[0] > 8 and registers > (limit := generation.register_limit(warpgroups)):
        return f"{registers=} of a halo of {d.count[0]} taps must be at most {limit}"
    return None


def _registers_of_halo(problem: Problem, d: geometry.TapAxis, cfg: Config) -> int:
    """The most registers of a thread that ptxas was found to need, with any epilogue. It computes addresses of taps ahead."""
    accumulators, taps = cfg.tile_m * cfg.tile_n // 128, d.count[0]
    if d.in_stride > 1:
        return 2 * (accumulators + taps) + 14 + 12 * problem.residual
    return accumulators + cfg.tile_m // 8 + 60 + taps * (2 + cfg.resident * cfg.tile_m // 64)

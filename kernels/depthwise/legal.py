"""The rules that make a configuration of the depthwise kernel legal for a problem, each with the reason it gives otherwise."""

from ..gpu import ANY_HOPPER, MOST_BARRIERS, Gpu
from .plan import PIXELS, Config, Problem
from .tiling import Tiling, tiling

MOST_BOX = 256  # elements along a dimension of a TMA copy
# On an SM, in a whole backward pass: nothing hides the latency of one consumer's loads and products. Where registers allow no
# more, two kernels, of fewer registers each, are taken instead.
LEAST_CONSUMERS = 2
MOST_PRODUCTS = 2048  # of a fragment and a tap, in a tile: its code is one long line, which takes long to compile


def illegal(problem: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> str | None:
    """The reason why the kernel does not take a configuration, or None."""
    tile, stride = cfg.tile_pixels, problem.dims[1].in_stride
    if len(tile) != 3 or min(tile) < 1 or tile[2] % PIXELS:
        return f"{cfg.tile_pixels=} must be (planes, rows, columns), and columns a multiple of {PIXELS}"
    if any(extent > 1 for extent in tile[: 3 - problem.ndim]):
        return (
            f"{cfg.tile_pixels=} must begin with {3 - problem.ndim} ones: the convolution has {problem.ndim} dimensions"
        )
    if min(cfg.chunk_rows, cfg.strip_tiles, cfg.channel_warpgroups, cfg.column_warpgroups) < 1:
        return "chunk_rows, strip_tiles and warpgroups must be at least 1"
    if cfg.ctas_per_sm not in (1, 2):
        return f"{cfg.ctas_per_sm=} must be 1 or 2"
    if tile[1] * stride % cfg.chunk_rows:
        return f"{cfg.chunk_rows=} must divide the {tile[1] * stride} input rows by which tiles are apart"
    t = tiling(problem, cfg)
    if max(box := (*t.load_pixels, t.pixel_elements, *tile)) > MOST_BOX:
        return f"{box=} must be at most {MOST_BOX} long: a TMA copy"
    if not t.tile_chunks <= cfg.stages <= MOST_BARRIERS:
        return f"{cfg.stages=} must be {t.tile_chunks}, which a tile reads, to {MOST_BARRIERS}"
    if (products := t.unrolled_products) > MOST_PRODUCTS:
        return f"{products=} of a tile must be at most {MOST_PRODUCTS}"
    limit = gpu.generation.register_limit((cfg.consumers + 1) * cfg.ctas_per_sm)
    if problem.backward and cfg.consumers * cfg.ctas_per_sm < LEAST_CONSUMERS:
        return f"{cfg.consumers * cfg.ctas_per_sm} consumers on an SM must be at least {LEAST_CONSUMERS} in a backward pass"
    if problem.derivative and cfg.column_warpgroups > 1:
        return f"{cfg.column_warpgroups=} must be 1, where a consumer multiplies all pixels of its channels by a derivative"
    if (needed := registers(t)) > limit:
        return f"{needed=} registers must be at most {limit}"
    if (smem_bytes := t.smem_bytes) > (limit := gpu.generation.smem_limit(cfg.ctas_per_sm)):
        return f"{smem_bytes=} must be at most {limit}"
    return None


def registers(t: Tiling) -> int:
    """Registers of a thread that weights, sums, fragments and all else need, as ptxas was found to have it.

    ptxas keeps to what a block alone on an SM may have. Of another block there it knows nothing, and takes more than it needs.
    The model is not exact: close to the limit, one of 82 random backward passes spilled a register, with ptxas 13.5.
    """
    if not t.problem.weight_sums:
        return _of_pixel_sums(t)
    return _of_weight_sums(t) + (_beside_weight_sums(t) if t.problem.backward else 0)


def _of_pixel_sums(t: Tiling) -> int:
    problem, cfg = t.problem, t.cfg
    fragment, float32 = (2, 0) if problem.on_tensor_cores else (4, 16)
    fragments = problem.tap_registers * fragment * min(problem.row_fragments, len(problem.column_moves))
    others = 30 if cfg.ctas_per_sm == 1 else 60 if problem.ndim == 3 else 36
    fused = 12 * (problem.residual or problem.outputs > 1)
    return problem.taps * problem.tap_registers + 4 * unfinished(t) + fragments + others + float32 + fused


def _of_weight_sums(t: Tiling) -> int:
    """Registers of a weight gradient."""
    problem, moves = t.problem, len(t.problem.column_moves)
    pixels = moves if len(problem.phases) > 1 else min(2, moves)
    fragments = unfinished(t) + pixels + problem.waiting
    if problem.on_tensor_cores:
        needed = 4 * (len(problem.accumulators) + problem.bias) + 2 * fragments + 34
        needed += 2 * max(0, t.tile_chunks - 10)  # the numbers of their slots, where a tile reads many
        if needed > 180 and t.cfg.fragments * t.cfg.tile_pixels[0] > 1:
            needed += 10 * unfinished(t)  # of a loop over places, in which so many sums are carried
        return needed if t.cfg.ctas_per_sm == 1 else needed + 8 + 2 * max(0, t.place_fragments - 16)
    return problem.weights + problem.bias + 4 * (unfinished(t) + pixels * problem.tap_registers) + 56


def _beside_weight_sums(t: Tiling) -> int:
    """Registers of a whole backward pass beyond those of its weight gradient: weights, sums over taps, their fragments."""
    problem, places = t.problem, t.cfg.fragments * t.cfg.tile_pixels[0]
    fragments = 4 if problem.on_tensor_cores else 0
    needed = problem.taps * problem.tap_registers + 4 * unfinished(t) + fragments
    needed += 16 if problem.derivative else 0
    if t.cfg.ctas_per_sm == 1:
        return needed
    # Of another block on the SM ptxas knows nothing. It loads fragments of many rows long before it multiplies them, unless a
    # loop over places keeps it from that, and computes addresses of planes beforehand. That was found before loads were held
    # back (weight_sums.AHEAD): now fewer registers may do.
    early = 2 * max(0, t.place_fragments - 9) if places == 1 else 0
    return needed + early + (28 if problem.ndim == 3 else 4)


def unfinished(t: Tiling) -> int:
    """Fragments of outputs in registers at once: of all phases, and of the output rows that an input row is joined to.

    Of sums over taps they are the sums, of sums over pixels the partner.
    """
    rows = t.problem.dims[1]
    most = min(t.cfg.tile_pixels[1], t.reaches[1].length // rows.in_stride + 1)
    return len(t.problem.phases) * most

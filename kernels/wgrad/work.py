"""Counts of what a tiling costs: multiply-adds, bytes, steps. Nothing here is a model or a measurement."""

import functools
import itertools
import math

from ..cost import Work
from ..gpu import ANY_HOPPER, Gpu
from .plan import ITEMSIZE, Config, M, Problem, Tiling, tiling


def useful_macs(problem: Problem) -> int:
    """The multiply-adds of the definition: taps over padding count, stuffed zeros do not."""
    p = problem if problem.single_phase else problem.transpose()
    pairs = math.prod(d.out_size * d.count[0] for d in p.dims)
    return p.examples * p.batch * p.groups * p.in_channels * p.out_channels * pairs


def workspace_bytes(t: Tiling) -> int:
    """Bytes of partial sums that lie in global memory until XLA has added them."""
    return math.prod(t.out_shape) * 4 if t.cfg.split_k > 1 else 0


def operand_bytes(problem: Problem) -> int:
    """Bytes of x and dy, of as many bits as the kernel reads them in."""
    return sum(_array_bytes(problem))


def result_bytes(problem: Problem) -> int:
    """Bytes of the gradients."""
    taps = math.prod(axis.kernel for axis in problem.axes)
    weights = problem.in_channels * problem.out_channels * taps * problem.out_itemsize
    return problem.examples * problem.groups * (weights + 4 * problem.bias * problem.out_channels)


def least_bytes(problem: Problem) -> int:
    """The least traffic with global memory, in bytes: every pixel that some tap reads, once, the result written once."""
    return sum(_read_bytes(problem if problem.single_phase else problem.transpose())) + result_bytes(problem)


def executed_macs(problem: Problem, cfg: Config) -> int:
    """The multiply-adds the kernel issues, step by step: ragged boxes and tiles whole, skipped boxes not at all."""
    return all_steps(problem, cfg) * cfg.cluster * cfg.mma_warpgroups * _step_macs(tiling(problem, cfg))


def loaded_bytes(problem: Problem, cfg: Config) -> int:
    """Bytes that the kernel loads into shared memory; what a cluster shares, once."""
    t = tiling(problem, cfg)
    dy, x = (1 if cfg.multicast == name else cfg.cluster for name in ("dy", "x"))
    return all_steps(problem, cfg) * (dy * t.dy_bytes + x * t.x_bytes)


def all_steps(problem: Problem, cfg: Config) -> int:
    """Number of steps of all clusters together. A step fills one slot of the ring."""
    t = tiling(problem, cfg)
    p = t.problem
    return sum(steps_of_taps(problem, cfg)) * p.examples * p.groups * t.m_tiles * t.n_tiles // cfg.cluster


def steps_of_taps(problem: Problem, cfg: Config) -> tuple[int, ...]:
    """Number of steps, of all parts together, of every tap tile."""
    return _steps_of_taps(problem.under(cfg), cfg.step_pixels, cfg.taps_per_tile, cfg.halo)


@functools.lru_cache(maxsize=1024)
def _steps_of_taps(p: Problem, box: tuple[int, ...], taps_per_tile: int, halo: bool) -> tuple[int, ...]:
    """`steps_of_taps` of all configurations that have these numbers in common. p: the problem as the kernel computes it."""
    t = Tiling(p, Config(box, taps_per_tile=taps_per_tile, halo=halo))
    places, found = list(itertools.product(*map(range, t.tap_loads))), []
    for start in range(0, len(places), taps_per_tile):
        together, steps = places[start : start + taps_per_tile], t.image_steps
        for i, (d, e) in enumerate(zip(p.dims, box[1:], strict=True)):
            taps = [place[i] for place in together]
            first, last = d.outputs(min(taps), max(taps) + (t.halo_taps - 1 if i == t.halo_dim else 0))
            if p.bias and not start:
                first, last = 0, d.rows
            steps *= max(0, -(-last // e) - first // e)
        found.append(steps)
    return tuple(found)


def _step_macs(t: Tiling) -> int:
    """Multiply-adds of a consumer in a step."""
    return t.cfg.pixels * M * t.products * t.cfg.tile_n


def count(raw: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> Work:
    """The work of a problem under one of its configurations.

    In the words of `Work`, what a cluster shares are its weights, and what each of its blocks loads for itself are its pixels.
    Without a cluster these are dy and x.
    """
    t, clusters = tiling(raw, cfg), tiling(raw, cfg).workers(gpu.num_sms)
    p, tiles = t.problem, t.work_tiles
    x_rows, dy_rows = math.prod(t.load_pixels) * cfg.x_loads, cfg.pixels * cfg.m_warpgroups
    x_all, dy_all = _read_bytes(p)
    own, shared, channel_tiles = (t.x_bytes, x_rows, x_all), (t.dy_bytes, dy_rows, dy_all), t.m_tiles
    if cfg.multicast == "x":
        own, shared, channel_tiles = shared, own, t.n_tiles
    steps, sms = all_steps(raw, cfg), min(gpu.num_sms, clusters * cfg.cluster)
    result = cfg.mma_warpgroups * M * t.products * cfg.tile_n * t.stored_itemsize
    dy_read = M * (1 if cfg.dy_registers else t.products)
    # A pixel is loaded for each tile of the other operand's channels, and for each tap. A block that loads it for several taps
    # is one reader all the same.
    pixel_loads = steps * cfg.cluster * own[0] // own[2]
    under_way = min(x_all + dy_all, clusters * cfg.cluster * cfg.stages * (t.x_bytes + t.dy_bytes))
    return Work(
        itemsize=ITEMSIZE,
        mma_warpgroups=cfg.mma_warpgroups,
        cluster=cfg.cluster,
        stages=cfg.stages,
        epi_stages=2,  # none: sums go from registers to global memory
        over_images=cfg.step_pixels[0] > 1,
        sms=sms,
        ctas_per_sm=2 if clusters * cfg.cluster > gpu.num_sms else 1,
        rounds=((-(-tiles // clusters), steps / tiles),),
        all_steps=steps,
        macs=_step_macs(t),
        operand_bytes=cfg.pixels * ITEMSIZE * (t.products * cfg.tile_n + dy_read),
        pixel_bytes=own[0],
        weight_bytes=shared[0],
        rows=own[1] + shared[1] / cfg.cluster,
        copies=cfg.m_warpgroups + cfg.x_loads,
        taps=t.products,
        pixel_readers=max(1, min(pixel_loads, channel_tiles * t.tap_tiles, clusters * cfg.cluster)),
        kept_bytes=0,
        chunks=t.products,
        elements=M * cfg.tile_n / 128,
        stored_bytes=result,
        ahead=None,
        input_bytes=own[2],
        weights_bytes=shared[2],
        held_bytes=under_way + clusters * cfg.cluster * result,
        before_bytes=_copied_bytes(raw.oriented(cfg), p, cfg),
        after_bytes=math.prod(t.out_shape) * t.stored_itemsize + result_bytes(raw),
    )


def _array_bytes(p: Problem) -> tuple[int, int]:
    """Bytes of x, and of dy."""
    image_groups = p.examples * p.batch * p.pieces * p.groups
    x = image_groups * p.in_channels * math.prod(d.in_size for d in p.dims)
    dy = image_groups * p.out_channels * math.prod(d.out_size for d in p.dims)
    return x * ITEMSIZE, dy * ITEMSIZE


def _read_bytes(p: Problem) -> tuple[int, int]:
    """Bytes of x that some tap reads, and of dy. A stride may leave some of x out, as that of a 1x1 convolution does."""
    met = math.prod(min(d.in_size, d.in_rows * d.residues, d.rows * d.count[0]) for d in p.dims)
    x, dy = _array_bytes(p)
    return x // math.prod(d.in_size for d in p.dims) * met, dy


def _copied_bytes(before: Problem, p: Problem, cfg: Config) -> int:
    """Bytes that XLA reads and writes before the kernel: for whole 16 bytes and strides, for space to depth, for pieces."""
    # In a row strides are channels as they lie, unless groups lie between.
    moved = cfg.space_to_depth and (before.groups > 1 or any(axis.stride > 1 for axis in before.axes[:-1]))
    sizes = (nbytes // ITEMSIZE for nbytes in _array_bytes(before))
    copied = (
        (size, read)
        for size, read, moves in zip(sizes, p.elements, (moved, False), strict=True)
        if p.terms > 1 or size != read or moves
    )
    return sum(map(sum, copied)) * ITEMSIZE

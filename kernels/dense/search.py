"""The configurations of the dense kernel that may be a problem's fastest."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

from ..geometry import boxes
from ..gpu import ANY_HOPPER, Gpu
from .legal import LEAST_WIDTH, illegal, illegal_col2im
from .plan import Config, Problem, Tiling, tiling


def candidates(problem: Problem, gpu: Gpu = ANY_HOPPER) -> Iterator[Config]:
    """A few hundred legal configurations, each with as many stages as fit (eight at most)."""
    last, least = problem.dims[-1], 32 // problem.itemsize
    yield from _candidates(problem, Config(()), gpu)
    if least > problem.in_channels and last.out_stride == 1 and last.count[0] > 1:
        yield from _candidates(problem, Config((), im2col=True), gpu)
    if problem.out_channels < LEAST_WIDTH:
        for count in range(1, len(problem.dims) + 1):
            if illegal_col2im(problem, few := Config((), col2im_dims=count)) is None:
                yield from _candidates(problem, few, gpu)


def _candidates(raw: Problem, mapping: Config, gpu: Gpu) -> Iterator[Config]:
    """The candidates of one mapping of taps to channels."""
    for pixels, tile in itertools.product((64, 128), list(_tiles(raw.under(mapping), mapping, gpu))):
        for box in boxes(pixels, len(raw.dims)):
            if not (tile.halo and box[0] > 1):  # not legal, like others, and more than half of all
                yield from _divided(raw, tile, box, gpu)


def _tiles(problem: Problem, mapping: Config, gpu: Gpu) -> Iterator[Config]:
    """Tiles without pixels and parts: the channels of a tile and of a step, the way they are loaded, and their consumers."""
    lanes = 128 // problem.itemsize
    tile_k = min((lanes, lanes // 2, lanes // 4), key=lambda b: (-(-problem.in_channels // b) * b, -b))
    counts = problem.dims[-1].count
    packed = (
        max(t for t in range(1, lanes // tile_k + 1) if all(n % t == 0 for n in counts))
        if tile_k >= problem.in_channels
        else 1
    )
    widths = {
        -(-problem.out_channels // n // LEAST_WIDTH) * LEAST_WIDTH for n in range(1, problem.out_channels // 64 + 2)
    }
    keeping = (False, True) if problem.out_channels <= 128 and problem.groups == 1 else (False,)
    for tile_n, halo, resident, cluster, (mma_warpgroups, ctas_per_sm) in itertools.product(
        sorted(n for n in widths if min(problem.out_channels, 64) <= n <= 256),
        (False, True),
        keeping,
        (1, 2),
        ((2, 1), (1, 2)),
    ):
        if (resident and cluster > 1) or cluster > gpu.num_sms:
            continue
        loads = {
            "tile_k": tile_k,
            "taps_per_step": 1 if resident else packed,
            "halo": halo,
            "resident": resident,
            "stages": 2,
        }
        yield _but(
            mapping, tile_n=tile_n, mma_warpgroups=mma_warpgroups, cluster=cluster, ctas_per_sm=ctas_per_sm, **loads
        )


def _divided(raw: Problem, tile: Config, box: tuple[int, ...], gpu: Gpu) -> Iterator[Config]:
    """A tile with this box of pixels, its channels in one part, and in several as long as there are few tiles."""
    for split_k in (1, 2, 4, 8):
        cfg = _but(tile, tile_pixels=box, split_k=split_k)
        if illegal(raw, cfg, gpu):
            break
        t = tiling(raw, cfg)
        deep = _as_deep_as_fits(t, gpu)
        if cfg.halo or deep.stages > 2:  # two stages hide a load's latency only where it serves several taps
            yield deep
        if 2 * t.work_tiles * cfg.cluster > split_k * gpu.num_sms * cfg.ctas_per_sm:
            break  # undivided tiles fill half of the chip


# (stages, epi_stages), the best first: four stages hide a load's latency, then four buffers do more for the epilogue.
DEPTHS = (*((stages, 4) for stages in range(8, 3, -1)), *itertools.product(range(8, 1, -1), (2, 1)))


def _as_deep_as_fits(t: Tiling, gpu: Gpu) -> Config:
    """The configuration with the first of `DEPTHS` for which there is shared memory."""
    cfg, limit = t.cfg, gpu.generation.smem_limit(t.cfg.ctas_per_sm)
    slot_bytes = (
        cfg.taps_per_step * (t.pixel_loads * math.prod(t.load_pixels) + t.weight_rows) * cfg.tile_k * t.problem.itemsize
    )
    likely = (deep for deep in DEPTHS if deep[0] <= limit // slot_bytes)
    stages, epi_stages = next(deep for deep in likely if t.shared_memory(*deep)[1] <= limit)
    return _but(cfg, stages=stages, epi_stages=epi_stages)


def _but(cfg: Config, **changes: Any) -> Config:
    """The configuration with some fields changed, in a third of the time that `dataclasses.replace` takes."""
    return Config(**(vars(cfg) | changes))

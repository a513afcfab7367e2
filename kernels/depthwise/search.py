"""The configurations of the depthwise kernel that may be a problem's fastest."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

from ..gpu import ANY_HOPPER, MOST_BARRIERS, Gpu
from .legal import LEAST_CONSUMERS, illegal
from .plan import CHANNELS, PIXELS, Config, Problem
from .tiling import tiling

LINE_BYTES = 128  # of global memory
AHEAD = 3  # tiles by which a deep ring is filled ahead
WARPGROUPS = ((1, 1), (1, 2), (2, 1), (3, 1), (1, 3), (2, 2), (1, 4))  # of channels and of columns


def candidates(problem: Problem, gpu: Gpu = ANY_HOPPER) -> Iterator[Config]:
    """Some hundreds of legal configurations, each with as many stages as fit.

    As far as any such tile fits, they read whole lines of memory, load a tile ahead, and have two consumers on an SM or more:
    every scheduler then has a warp to turn to while another waits. Where none fits, the smallest tile is left, if it is legal.
    """
    for line_bytes, consumers, ahead in ((LINE_BYTES, 2, 1), (0, 2, 1), (0, 1, 0)):
        found = _candidates(problem, gpu, line_bytes, consumers, ahead)
        if first := next(found, None):
            yield first
            yield from found
            return
    if not illegal(problem, smallest := least(problem), gpu):
        yield smallest


@functools.lru_cache(maxsize=256)
def any_fits(problem: Problem) -> bool:
    """Whether there are candidates on a Hopper GPU. Of most problems the smallest tile is legal, which is quickly seen."""
    return not illegal(problem, least(problem)) or next(candidates(problem), None) is not None


def _candidates(problem: Problem, gpu: Gpu, line_bytes: int, consumers: int, ahead: int) -> Iterator[Config]:
    planes, lines, columns = (d.rows for d in problem.dims)
    wide = -(-columns // PIXELS)
    for plane, row, places, (a, b), ctas in itertools.product(
        _up_to(planes, (1, 2, 4)),
        _up_to(lines, (1, 2, 4, 7, 8, 14)),
        _up_to(wide, (1, 2, 4, 8)),
        WARPGROUPS,
        (1, 2),
    ):
        if (a - 1) * CHANNELS >= problem.channels or (b - 1) * places >= wide:
            continue  # a consumer would have nothing to do
        if a * CHANNELS < _least_channels(problem, line_bytes) or a * b * ctas < consumers:
            continue
        tiles = -(-lines // row)
        for chunk, strip in itertools.product(
            _chunks(problem, row), sorted({-(-tiles // n) for n in (1, 2, 4, 8, tiles)})
        ):
            cfg = Config((plane, row, places * PIXELS), chunk, strip, a, b, MOST_BARRIERS, ctas)
            if (deep := _as_deep_as_fits(problem, cfg, gpu, ahead)) and not illegal(problem, deep, gpu):
                yield deep


def _least_channels(problem: Problem, line_bytes: int) -> int:
    """The fewest channels of a block that reads such lines.

    A weight gradient's registers may not allow more than two consumers. Of 96 channels, blocks of 64 would leave a quarter of
    their consumers idle: there half a line is enough, which other blocks read the rest of.
    """
    line = line_bytes // problem.itemsize
    idle = lambda block: -problem.channels % block
    if problem.weight_sums and line > CHANNELS and idle(CHANNELS) < idle(line):
        return CHANNELS
    return min(problem.channels, line)


def least(problem: Problem) -> Config:
    """The smallest tile, with as many slots as it needs."""
    cfg = Config((1, 1, PIXELS), channel_warpgroups=LEAST_CONSUMERS if problem.backward else 1)
    return dataclasses.replace(cfg, stages=tiling(problem, cfg).tile_chunks)


def _up_to(size: int, sizes: tuple[int, ...]) -> list[int]:
    """The sizes that are not larger than this one, and it itself if it is small."""
    return sorted({min(n, size) for n in sizes})


def _chunks(problem: Problem, rows: int) -> list[int]:
    """Rows of a chunk: all by which tiles are apart, or a divisor of that, which loads fewer rows in vain."""
    apart = rows * problem.dims[1].in_stride
    return sorted({apart, max(n for n in (1, 2) if apart % n == 0)})


def _as_deep_as_fits(problem: Problem, cfg: Config, gpu: Gpu, ahead: int) -> Config | None:
    """The configuration with as many stages as there is shared memory for, if that is enough to load tiles ahead."""
    t, limit = tiling(problem, cfg), gpu.generation.smem_limit(cfg.ctas_per_sm)
    most, enough = min(MOST_BARRIERS, t.tile_chunks + AHEAD * t.advance), t.tile_chunks + ahead * t.advance
    if enough > most or not _fits(problem, dataclasses.replace(cfg, stages=enough), limit):
        return None
    deeper = (dataclasses.replace(cfg, stages=stages) for stages in range(most, enough - 1, -1))
    return next(deep for deep in deeper if _fits(problem, deep, limit))


def _fits(problem: Problem, cfg: Config, limit: int) -> bool:
    return tiling(problem, cfg).smem_bytes <= limit

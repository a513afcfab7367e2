"""The configurations among which the model chooses."""

import dataclasses
import functools
from collections.abc import Iterator

from ..gpu import ANY_HOPPER, Gpu
from .legal import illegal
from .plan import BLOCK, ROWS, Config, Problem

STAGES = (4, 3, 2)
STRIPS = (1, 2, 4)  # parts that the rows of an image are divided into


def candidates(problem: Problem, gpu: Gpu = ANY_HOPPER) -> Iterator[Config]:
    """Some legal configurations, each with as many stages as fit."""
    rows, columns = problem.dims
    tiles = -(-rows.out_size // ROWS)
    wide = -(-columns.out_size // BLOCK)
    for width in sorted({-(-wide // n) * BLOCK for n in range(1, wide + 1)} | {2 * BLOCK, 4 * BLOCK}):
        for strip in sorted({-(-tiles // n) for n in (*STRIPS, *range(8, tiles + 1, 8))}):
            if deep := _as_deep_as_fits(problem, Config(width, strip * ROWS), gpu):
                yield deep


@functools.lru_cache(maxsize=256)
def any_fits(problem: Problem) -> bool:
    """Whether there are candidates on a Hopper GPU."""
    return next(candidates(problem), None) is not None


def _as_deep_as_fits(problem: Problem, cfg: Config, gpu: Gpu) -> Config | None:
    deep = (dataclasses.replace(cfg, stages=stages) for stages in STAGES)
    return next((found for found in deep if not illegal(problem, found, gpu)), None)


def least(problem: Problem) -> Config:
    """The smallest tile."""
    return Config(BLOCK, ROWS, STAGES[-1])

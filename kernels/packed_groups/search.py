"""The configurations that may be the fastest: those of the launched kernel, for one way to pack groups."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from .. import cost
from ..chips import chips
from ..choice import WASTEFUL
from ..dense.plan import Config as DenseConfig
from ..gpu import Gpu
from .plan import Config, Problem
from .work import count as work


def candidates(problem: Problem, gpu: Gpu) -> Iterator[Config]:
    """The candidates of the launched kernel for one number of groups in one, and with channels made of taps or without.

    It is the way whose fastest candidate is the fastest by the model. The more groups are one, the more zeros are multiplied,
    and the less is copied. `choice.best` would leave out unpriced whatever multiplies far more than the rest.
    """
    ways = (
        [Config(count, problem.family.name, tile) for tile in tiles]
        for count, packing in problem.packings
        for tiles in _kinds(list(problem.family.candidates(packing, gpu)))
    )
    yield from min(ways, key=lambda way: _fastest(problem, way, gpu), default=[])


def makes_channels_of_taps(tile: Any) -> bool:
    """Whether XLA makes channels of taps, before the launch or after it."""
    return isinstance(tile, DenseConfig) and (tile.im2col or tile.col2im_dims > 0)


def _kinds(tiles: list[Any]) -> Iterator[list[Any]]:
    """Two lists at most: tiles that make channels of taps, and the others."""
    for _, kind in itertools.groupby(sorted(tiles, key=makes_channels_of_taps), makes_channels_of_taps):
        yield list(kind)


def _fastest(problem: Problem, way: Sequence[Config], gpu: Gpu) -> float:
    """The least clocks, on the first chip, of the configurations that `choice.best` prices."""
    works, chip = [work(problem, config, gpu) for config in way], chips(gpu)[0]
    most = WASTEFUL * min(map(cost.executed, works))
    return min(cost.clocks(work, chip) for work in works if cost.executed(work) <= most)

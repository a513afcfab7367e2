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
    """The candidates of one of the `ways`: of the one whose fastest candidate is the fastest by the model.

    The more groups are computed as one, the more zeros are multiplied, and the less is copied. `choice.best` cannot compare
    ways: it drops what has many more multiply-adds than the least before it prices anything.
    """
    yield from min(ways(problem, gpu), key=lambda way: fastest(problem, way, gpu)[0], default=[])


def ways(problem: Problem, gpu: Gpu) -> Iterator[list[Config]]:
    """The candidates of every way to pack groups: so many as one, with channels made of taps or without."""
    for count, packing in problem.packings:
        tiles = sorted(problem.family.candidates(packing, gpu), key=makes_channels_of_taps)
        for _, kind in itertools.groupby(tiles, makes_channels_of_taps):
            yield [Config(count, problem.family.name, tile) for tile in kind]


def makes_channels_of_taps(tile: Any) -> bool:
    """Whether XLA makes channels of taps, before the launch or after it."""
    return isinstance(tile, DenseConfig) and (tile.im2col or tile.col2im_dims > 0)


def fastest(problem: Problem, way: Sequence[Config], gpu: Gpu) -> tuple[float, Config]:
    """The least clocks on the first chip, and whose they are, of the configurations that `choice.best` prices."""
    works, chip = {config: work(problem, config, gpu) for config in way}, chips(gpu)[0]
    most = WASTEFUL * min(map(cost.executed, works.values()))
    priced = [config for config, asked in works.items() if cost.executed(asked) <= most]
    clocks = [cost.clocks(works[config], chip) for config in priced]
    return min(zip(clocks, priced, strict=True), key=lambda found: found[0])

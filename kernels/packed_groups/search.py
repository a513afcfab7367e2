"""The configurations that may be the fastest: those of the launched kernel, for all ways to pack groups."""

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
    """The candidates of the launched kernel for every number of groups in one.

    Either XLA makes channels of taps in all of them, or in none: whichever the model finds faster. Those that do so multiply
    least, by far, and copy the pixels for every tap. Beside them `choice.best` would leave out the others unpriced.
    """
    kinds: dict[bool, list[Config]] = {}
    for count, packing in problem.packings:
        for tile in problem.family.candidates(packing, gpu):
            kinds.setdefault(makes_channels_of_taps(tile), []).append(Config(count, problem.family.name, tile))
    yield from min(kinds.values(), key=lambda kind: _fastest(problem, kind, gpu), default=[])


def makes_channels_of_taps(tile: Any) -> bool:
    """Whether XLA makes channels of taps, before the launch or after it."""
    return isinstance(tile, DenseConfig) and (tile.im2col or tile.col2im_dims > 0)


def _fastest(problem: Problem, configs: Sequence[Config], gpu: Gpu) -> float:
    """The least clocks, on the first chip, of configurations that `choice.best` would price."""
    works, chip = [work(problem, config, gpu) for config in configs], chips(gpu)[0]
    most = WASTEFUL * min(map(cost.executed, works))
    return min(cost.clocks(work, chip) for work in works if cost.executed(work) <= most)

"""Ranks the candidates of a family by the cost model, and takes one."""

import operator
from collections.abc import Hashable, Sequence
from typing import Any

from .chips import Chip, chips
from .cost import Work, clocks, executed
from .family import Family
from .gpu import Gpu

PRUNED = 1.2  # times the least clocks: configurations that are slower on the first chip are not priced on the others
CLOSE = 1.01  # times the least regret: the model does not tell such configurations apart
WASTEFUL = 1.5  # times the fewest multiply-adds: configurations that execute more are left out, whatever the model says

type Counted = tuple[Any, Work]  # a configuration, and what it asks


def best(family: Family, problem: Hashable, gpu: Gpu) -> Any:
    """The configuration whose worst regret is least over the chips that the device may be; on a measured device, the fastest.

    Where the model does not tell several apart, the fastest on the first chip is taken, and of equals the simplest.
    Raises ValueError if there are no candidates.
    """
    first, *others = chips(gpu)
    found = [(cfg, family.work(problem, cfg, gpu)) for cfg in family.candidates(problem, gpu)]
    if not found:
        raise ValueError(f"the {family.name} kernel has no legal configuration to choose from for {problem} on {gpu}")
    likely = _likely(found, first)
    times = [[clocks(work, chip) for chip in (first, *others)] for _, work in likely]
    regrets = worst_regrets(times)
    most = CLOSE * min(regrets)
    close = [i for i, regret in enumerate(regrets) if regret <= most]
    return likely[min(close, key=lambda i: (times[i][0], *_plainness(*likely[i])))][0]


def _likely(found: list[Counted], chip: Chip) -> list[Counted]:
    """Candidates that execute few multiply-adds, and are not far behind the best on this chip."""
    fewest = min(executed(work) for _, work in found)
    found = [(cfg, work) for cfg, work in found if executed(work) <= WASTEFUL * fewest]
    times = [clocks(work, chip) for _, work in found]
    most = PRUNED * min(times)
    return [counted for counted, time in zip(found, times, strict=True) if time <= most]


def worst_regrets(times: Sequence[Sequence[float]]) -> list[float]:
    """The worst regret of each row of times, one time a chip: how many times as long as a chip's best it takes at most."""
    fastest = [min(on_chip) for on_chip in zip(*times, strict=True)]
    return [max(map(operator.truediv, row, fastest)) for row in times]


def _plainness(cfg: Any, work: Work) -> tuple[float, ...]:
    """A sort key, lower for simpler configurations: first their multiply-adds, then their own complexity."""
    return executed(work), *cfg.complexity

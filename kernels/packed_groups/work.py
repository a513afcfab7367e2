"""Counts of what a launch costs: those of the launched kernel, for the packed product."""

from ..cost import Work
from ..dense import DENSE
from ..dense import work as of_dense
from ..gpu import Gpu
from ..wgrad import WEIGHT_GRADIENT
from ..wgrad import work as of_wgrad
from .plan import Config, Problem


def count(problem: Problem, config: Config, gpu: Gpu) -> Work:
    """The work of the launched kernel.

    Not counted: XLA writes `count` times as many weights, most of them zeros, or takes the blocks out of such gradients. They
    are few beside the pixels of a large batch.
    """
    return problem.family.work(problem.packing(config.count), config.tile, gpu)


def executed_macs(problem: Problem, config: Config) -> int:
    """Multiply-adds that the launched kernel issues, as it counts them."""
    counted = {DENSE.name: of_dense.executed_macs, WEIGHT_GRADIENT.name: of_wgrad.executed_macs}[problem.family.name]
    executed: int = counted(problem.packing(config.count), config.tile)  # type: ignore[operator]
    return executed

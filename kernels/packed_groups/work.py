"""Counts of what a launch costs: those of the launched kernel, for the packed product."""

from ..cost import Work
from ..dense import DENSE
from ..dense import work as of_dense
from ..gpu import Gpu
from ..wgrad import WEIGHT_GRADIENT
from ..wgrad import work as of_wgrad
from .plan import Config, Problem

EXECUTED = {DENSE.name: of_dense.executed_macs, WEIGHT_GRADIENT.name: of_wgrad.executed_macs}


def count(problem: Problem, config: Config, gpu: Gpu) -> Work:
    """The work of the launched kernel. Not counted: XLA writes weights with zeros; it would write them anyway, reordered."""
    return problem.family.work(problem.packing(config.count), config.tile, gpu)


def executed_macs(problem: Problem, config: Config) -> int:
    """Multiply-adds that the launched kernel issues, as it counts them."""
    found: int = EXECUTED[config.family](problem.packing(config.count), config.tile)  # type: ignore[operator]
    return found

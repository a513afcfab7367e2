"""Counts of what a launch costs: those of the launched kernel, for the packed product."""

from ..cost import Work
from ..dense import DENSE
from ..dense import work as of_dense
from ..gpu import Gpu
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
    packing = problem.packing(config.count)
    if problem.family is DENSE:
        return of_dense.executed_macs(packing, config.tile)
    return of_wgrad.executed_macs(packing, config.tile)

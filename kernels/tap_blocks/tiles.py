"""The tiles of blocks of taps: those of the depthwise kernel that are legal for all blocks, and what they cost together.

A problem of this family is those of its blocks, in turn.
"""

from collections.abc import Iterator

from ..cost import Work
from ..depthwise import DEPTHWISE
from ..depthwise.plan import Config, Problem
from ..gpu import Gpu

type Problems = tuple[Problem, ...]


def illegal(problems: Problems, config: Config, gpu: Gpu) -> str | None:
    """The reason why the depthwise kernel does not take a configuration for some block, or None."""
    reasons = (DEPTHWISE.illegal(problem, config, gpu) for problem in dict.fromkeys(problems))
    return next((why for why in reasons if why), None)


def candidates(problems: Problems, gpu: Gpu) -> Iterator[Config]:
    """The candidates of the largest block that are legal for all."""
    largest = max(problems, key=lambda problem: problem.taps)
    return (config for config in DEPTHWISE.candidates(largest, gpu) if not illegal(problems, config, gpu))


def count(problems: Problems, config: Config, gpu: Gpu) -> Work:
    """The work of all launches. XLA's copies around each are counted, also those that it makes once for all."""
    first, *others = (DEPTHWISE.work(problem, config, gpu) for problem in problems)
    return first._replace(others=tuple(others))

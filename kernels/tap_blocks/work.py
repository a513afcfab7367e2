"""Counts of what all launches together cost."""

from ..cost import Work
from ..depthwise import DEPTHWISE, work
from ..depthwise.plan import Config
from ..gpu import Gpu
from .plan import Problems


def count(problems: Problems, config: Config, gpu: Gpu) -> Work:
    """The work of all launches. Of XLA's copies those around every launch count, and not that it rounds results to 16 bits."""
    first, *others = (DEPTHWISE.work(problem, config, gpu) for problem in problems)
    return first._replace(others=tuple(others))


def executed_macs(problems: Problems, config: Config) -> int:
    """Multiply-adds that all launches issue, as the depthwise kernel counts them."""
    return sum(work.executed_macs(problem, config) for problem in problems)

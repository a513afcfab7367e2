"""The multiply-adds of all launches."""

from ..depthwise import work
from ..depthwise.plan import Config
from .tiles import Problems


def executed_macs(problems: Problems, config: Config) -> int:
    """Multiply-adds that all launches issue, as the depthwise kernel counts them."""
    return sum(work.executed_macs(problem, config) for problem in problems)

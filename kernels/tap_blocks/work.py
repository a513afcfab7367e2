"""Counts of what all launches together cost."""

from ..cost import Work, executed
from ..depthwise import DEPTHWISE
from ..depthwise import work as of_depthwise
from ..depthwise.plan import Config
from ..gpu import Gpu
from .plan import Problems


def count(problems: Problems, config: Config, gpu: Gpu) -> Work:
    """The work of all launches as of one: their tiles one after the other, in steps of the largest block.

    Not counted: that there are several launches, some microseconds each, and that XLA rounds results to 16 bits.
    """
    each = [DEPTHWISE.work(problem, config, gpu) for problem in problems]
    largest = max(each, key=lambda work: work.macs)
    return largest._replace(
        rounds=tuple(tiles for work in each for tiles in work.rounds),
        all_steps=largest.all_steps * sum(map(executed, each)) / executed(largest),
        input_bytes=sum(work.input_bytes for work in each),
        weights_bytes=sum(work.weights_bytes for work in each),
        before_bytes=sum(work.before_bytes for work in each),
        after_bytes=sum(work.after_bytes for work in each),
    )


def executed_macs(problems: Problems, config: Config) -> int:
    """Multiply-adds that all launches issue, as the depthwise kernel counts them."""
    return sum(of_depthwise.executed_macs(problem, config) for problem in problems)

"""The configurations of blocks of taps: those of the depthwise kernel that are legal for all blocks."""

from collections.abc import Iterator

from ..depthwise import DEPTHWISE
from ..depthwise.plan import Config
from ..gpu import Gpu
from .legal import illegal
from .plan import Problems


def candidates(problems: Problems, gpu: Gpu) -> Iterator[Config]:
    """The candidates of the block that asks for most, as far as they are legal for all."""
    largest = max(problems, key=lambda problem: (problem.taps, problem.outputs, problem.residual))
    return (config for config in DEPTHWISE.candidates(largest, gpu) if not illegal(problems, config, gpu))

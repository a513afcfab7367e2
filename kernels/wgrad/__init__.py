"""The weight-gradient family: sums of products of cotangents and inputs over all pixels, several taps at a time.

served.py    products it serves, and their names      schedule.py  which tile comes next, and the pixels it sums over
plan.py      problems, configurations, tilings         sm90.py      the kernel, for Hopper
legal.py     which configurations the kernel takes     operands.py  operands and results as the kernel has them
search.py    the candidates
work.py      what a tiling costs, counted
"""

import types
from collections.abc import Mapping
from typing import Any

from pallas_conv.spec import ConvSpec, Product

from . import legal, search, served, work
from .plan import Config, Problem


def _sample(stride: int = 1, up: int = 1, dtype: str = "bfloat16", models: int | None = None) -> Product:
    """The weight gradient of a 3x3 convolution, padded to keep its size but for strides and up-sampling."""
    spec = ConvSpec((stride,) * 2, ((1, 1),) * 2, (up,) * 2, (1, 1), 1, (10, 7), (3, 3))
    return Product("wgrad", spec, 2, 24, 40, dtype, dtype, models)


class WeightGradient:
    """See `family.Family`."""

    name = "wgrad"
    roles = frozenset({"wgrad"})
    bodies: Mapping[tuple[int, ...], str] = types.MappingProxyType({(9, 0): ".wgrad.sm90"})
    config: type[Any] = Config
    samples: tuple[Product, ...] = (
        _sample(),
        _sample(stride=2),
        _sample(up=2),
        _sample(dtype="float32"),
        _sample(models=3),
    )

    is_for = staticmethod(served.is_for)
    reasons = staticmethod(served.reasons)
    problem = staticmethod(Problem.of)
    illegal = staticmethod(legal.illegal)
    candidates = staticmethod(search.candidates)
    work = staticmethod(work.count)
    size = staticmethod(served.size)
    series = staticmethod(served.series)
    code_path = staticmethod(served.code_path)
    epilogue = staticmethod(served.epilogue)
    notes = staticmethod(served.notes)

    def __reduce__(self) -> str:
        return "WEIGHT_GRADIENT"


WEIGHT_GRADIENT = WeightGradient()

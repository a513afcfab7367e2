"""The family of whole backward passes of 1x1 convolutions: x and the cotangent are read once for all gradients.

served.py  products it serves, and their names        schedule.py  which pixels a thread block walks
plan.py    problems, configurations, tilings          producer.py  the warpgroup that loads, and multiplies by act'
legal.py   which configurations the kernel takes      consumer.py  those that sum the gradients
search.py  the candidates                             memory.py    the buffers and barriers that they share
work.py    what a tiling costs, counted               sm90.py      the kernel, for Hopper: launched
operands.py  operands and results as the kernel has them
"""

import types
from collections.abc import Mapping
from typing import Any

from pallas_conv.spec import ConvSpec, Product

from . import legal, search, served, work
from .plan import Config, Problem

ALL = ("dx", "dw", "db")


def _sample(channels: tuple[int, int], **more: Any) -> Product:
    """All gradients of a 1x1 convolution of bfloat16. No tile divides it evenly."""
    spec = ConvSpec((1, 1), ((0, 0),) * 2, (1, 1), (1, 1), 1, (9, 7), (1, 1))
    return Product("bwd", spec, 3, *channels, "bfloat16", "bfloat16", **{"outputs": ALL} | more)


class Pointwise:
    """See `family.Family`."""

    name = "pointwise"
    roles = frozenset({"bwd"})
    bodies: Mapping[tuple[int, ...], str] = types.MappingProxyType({(9, 0): ".pointwise.sm90"})
    config: type[Any] = Config
    samples: tuple[Product, ...] = (
        _sample((40, 72)),
        _sample((136, 64), outputs=("dx", "dw")),
        _sample((72, 40), activation="silu"),
        _sample((24, 24), models=2),
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
        return "POINTWISE"


POINTWISE = Pointwise()

"""The dense family: forward products and input gradients of groups from nine channels on, as sums of shifted matrix products.

served.py    products it serves, and their names      schedule.py  which tile, taps and channels come next
plan.py      problems, configurations, tilings         sm90.py      the kernel, for Hopper
legal.py     which configurations the kernel takes     operands.py  operands and results as the kernel has them
search.py    the candidates                            remap.py     taps as channels, around the kernel
work.py      what a tiling costs, counted
"""

import types
from collections.abc import Mapping
from typing import Any

from pallas_conv.spec import ConvSpec, Product

from . import legal, search, served, work
from .plan import Config, Problem


def _sample(role: str, stride: int = 1, up: int = 1, **fused: object) -> Product:
    """A 3x3 convolution of bfloat16, padded to keep its size but for strides and up-sampling. No tile divides it evenly."""
    spec = ConvSpec((stride,) * 2, ((1, 1),) * 2, (up,) * 2, (1, 1), 1, (10, 7), (3, 3))
    return Product(role, spec, 1, 24, 40, "bfloat16", "bfloat16", **fused)  # type: ignore[arg-type]


class Dense:
    """See `family.Family`."""

    name = "dense"
    roles = frozenset(served.ROLES)
    bodies: Mapping[tuple[int, ...], str] = types.MappingProxyType({(9, 0): ".dense.sm90"})
    config: type[Any] = Config
    samples: tuple[Product, ...] = (
        _sample("fprop", bias=True, activation="relu"),
        _sample("fprop", bias=True, activation="silu", outputs=("y", "z")),
        _sample("fprop", bias=True, residual=True, activation="relu"),
        _sample("fprop", stride=2, bias=True),
        _sample("dgrad"),
        _sample("fprop", up=2, bias=True),
        _sample("dgrad", stride=2),
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
        return "DENSE"  # of this module: what is unpickled is the same object


DENSE = Dense()

"""The depthwise family: all products of groups of few channels, up to eight, as sums of shifted pixels, or over them.

served.py      products it serves, and their names     schedule.py     which strip comes next
plan.py        problems, configurations                 strips.py       how a thread block walks down a strip
tiling.py      numbers that follow from both            pixel_sums.py   forward products and input gradients
taps.py        which pixels taps read                   weight_sums.py  weight and bias gradients
legal.py       which configurations a kernel takes      backward.py     input, weight and bias gradients at once
search.py      the candidates                           fragments.py    what multiplies pixels
work.py        what a tiling costs, counted             sm90.py         the kernels for Hopper: launched
operands.py    operands and results as a kernel has them
"""

import types
from collections.abc import Mapping
from typing import Any

from pallas_conv.spec import ConvSpec, Product

from ..family import narrow
from . import legal, search, served, work
from .plan import Config, Problem


def _sample(
    role: str, stride: int = 1, dtype: str = "bfloat16", group: int = 1, multiplier: int = 1, **fused: object
) -> Product:
    """A 3x3 convolution, padded to keep its size but for strides. No tile divides it evenly."""
    spec = ConvSpec((stride,) * 2, ((1, 1),) * 2, (1, 1), (1, 1), 24 // group, (10, 7), (3, 3))
    return Product(role, spec, 2, 24, 24 * multiplier, dtype, dtype, **fused)  # type: ignore[arg-type]


class Depthwise:
    """See `family.Family`."""

    name = "depthwise"
    roles = frozenset(served.ROLES)
    bodies: Mapping[tuple[int, ...], str] = types.MappingProxyType({(9, 0): ".depthwise.sm90"})
    config: type[Any] = Config
    samples: tuple[Product, ...] = (
        _sample("fprop", bias=True, activation="silu"),
        _sample("fprop", stride=2, bias=True, residual=True, activation="relu", outputs=("y", "z")),
        _sample("dgrad"),
        _sample("dgrad", stride=2),
        _sample("fprop", dtype="float32"),
        _sample("wgrad", outputs=("dw", "db")),
        _sample("wgrad", stride=2, dtype="float32"),
        _sample("fprop", group=4, bias=True, activation="relu"),
        _sample("dgrad", dtype="float32", group=2),
        _sample("wgrad", group=8),
        _sample("bwd", outputs=("dx", "dw", "db")),
        _sample("bwd", multiplier=2, outputs=("dx", "dw", "db")),
        _sample("bwd", stride=2, dtype="float32", outputs=("dx", "dw")),
    )

    is_for = staticmethod(narrow)
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
        return "DEPTHWISE"


DEPTHWISE = Depthwise()

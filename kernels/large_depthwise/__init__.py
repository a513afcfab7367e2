"""The large-kernel depthwise family: all three products of kernels of two dimensions, too large to be in registers.

served.py      products it serves, and their names            schedule.py     which strip comes next
plan.py        problems, configurations, tilings              strips.py       how a thread block walks down a strip
legal.py       which configurations a kernel takes            pixel_sums.py   forward products and input gradients
search.py      the candidates                                 weight_sums.py  weight and bias gradients
work.py        what a tiling costs, counted                   sm90.py         the kernels for Hopper: launched
operands.py    operands and results as a kernel has them      hankel.py      the matrices that tensor cores multiply
"""

import types
from collections.abc import Mapping
from typing import Any

from pallas_conv.spec import ConvSpec, Product

from . import legal, search, served, work
from .plan import Config, Problem


def _sample(role: str, kernel: tuple[int, int] = (10, 11), dtype: str = "bfloat16", **fused: object) -> Product:
    """A convolution, padded to keep its size. No tile divides it evenly."""
    padding = tuple((k // 2, k // 2) for k in kernel)
    spec = ConvSpec((1, 1), padding, (1, 1), (1, 1), 12, (13, 35), kernel)
    return Product(role, spec, 2, 12, 12, dtype, dtype, **fused)  # type: ignore[arg-type]


class LargeDepthwise:
    """See `family.Family`."""

    name = "large_depthwise"
    roles = frozenset(served.ROLES)
    bodies: Mapping[tuple[int, ...], str] = types.MappingProxyType({(9, 0): ".large_depthwise.sm90"})
    config: type[Any] = Config
    samples: tuple[Product, ...] = (
        _sample("fprop", bias=True, activation="silu", outputs=("y", "z")),
        _sample("dgrad", (27, 5)),
        _sample("wgrad", outputs=("dw", "db")),
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
        return "LARGE_DEPTHWISE"


LARGE_DEPTHWISE = LargeDepthwise()

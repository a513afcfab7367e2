"""The family of depthwise products of more taps than a thread has registers: launches of the depthwise kernel, block by block.

served.py   products it serves, and their names     legal.py    which configurations all blocks take
blocks.py   how a product is divided                search.py   the candidates
plan.py     a problem: those of its blocks          work.py     what all launches cost, counted
sm90.py     the launches
"""

import types
from collections.abc import Mapping
from typing import Any

from pallas_conv.spec import ConvSpec, Product

from ..depthwise import DEPTHWISE
from ..depthwise.plan import Config
from ..family import narrow
from . import legal, search, served, work


def _sample(role: str, kernel: tuple[int, int], stride: int = 1, dtype: str = "float32", **fused: object) -> Product:
    """A convolution, padded to keep its size but for strides. No tile divides it evenly."""
    spec = ConvSpec((stride,) * 2, tuple((k // 2, k // 2) for k in kernel), (1, 1), (1, 1), 8, (10, 7), kernel)
    return Product(role, spec, 2, 8, 8, dtype, dtype, **fused)  # type: ignore[arg-type]


class TapBlocks:
    """See `family.Family`."""

    name = "tap_blocks"
    roles = frozenset(served.ROLES)
    bodies: Mapping[tuple[int, ...], str] = types.MappingProxyType({(9, 0): ".tap_blocks.sm90"})
    config: type[Any] = Config
    samples: tuple[Product, ...] = (
        _sample("fprop", (13, 11), bias=True, activation="silu", outputs=("y", "z")),
        _sample("fprop", (13, 11), 2, "bfloat16", residual=True, activation="relu"),
        _sample("dgrad", (12, 11)),
        _sample("wgrad", (13, 11), outputs=("dw", "db")),
    )

    is_for = staticmethod(narrow)
    reasons = staticmethod(served.reasons)
    problem = staticmethod(served.problem)
    illegal = staticmethod(legal.illegal)
    candidates = staticmethod(search.candidates)
    work = staticmethod(work.count)
    size = staticmethod(DEPTHWISE.size)
    series = staticmethod(DEPTHWISE.series)
    code_path = staticmethod(served.code_path)
    epilogue = staticmethod(served.epilogue)
    notes = staticmethod(served.notes)

    def __reduce__(self) -> str:
        return "TAP_BLOCKS"


TAP_BLOCKS = TapBlocks()

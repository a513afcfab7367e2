"""The family of groups of few channels on one side and more on the other: other kernels, of one or several groups as one.

served.py    products it serves, and their names      legal.py    which configurations the launched kernel takes
plan.py      problems, configurations, packed products  search.py   the candidates
packing.py   weights as blocks on a diagonal, and back  work.py     what a launch costs, counted
sm90.py      the launch
"""

import types
from collections.abc import Mapping
from typing import Any

from pallas_conv.spec import ConvSpec, Product

from . import legal, search, served, work
from .plan import LAUNCHED, Config, Problem


def _sample(role: str, channels: tuple[int, int], groups: int, **fused: object) -> Product:
    """A 3x3 convolution of bfloat16, padded to keep its size. No tile divides it evenly."""
    spec = ConvSpec((1, 1), ((1, 1),) * 2, (1, 1), (1, 1), groups, (10, 7), (3, 3))
    return Product(role, spec, 2, *channels, "bfloat16", "bfloat16", **fused)  # type: ignore[arg-type]


class PackedGroups:
    """See `family.Family`."""

    name = "packed_groups"
    roles = frozenset(LAUNCHED)
    bodies: Mapping[tuple[int, ...], str] = types.MappingProxyType({(9, 0): ".packed_groups.sm90"})
    config: type[Any] = Config
    samples: tuple[Product, ...] = (
        _sample("fprop", (16, 192), 16, bias=True, activation="silu", outputs=("y", "z")),
        _sample("fprop", (96, 24), 8, residual=True, activation="relu"),
        _sample("dgrad", (16, 192), 16),
        _sample("wgrad", (16, 192), 16, outputs=("dw", "db")),
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
        return "PACKED_GROUPS"


PACKED_GROUPS = PackedGroups()

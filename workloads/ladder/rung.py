"""A rung of the ladder, and short names for the products on it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..configured import Case, product

fprop, dgrad, wgrad = (functools.partial(product, role) for role in ("fprop", "dgrad", "wgrad"))


class Rung(NamedTuple):
    """Cases whose highest feature is the rung's, those of fewer features first."""

    feature: str
    cases: tuple[Case, ...]


def held(features: Mapping[str, Callable[[Any], bool]], found: Any) -> tuple[str, ...]:
    """The features that hold of what was found about a case, in their order; the last one is the case's rung."""
    return tuple(name for name, holds in features.items() if holds(found))

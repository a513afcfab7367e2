"""A rung of the ladder, and short names for the products on it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..configured import Case, product

fprop, dgrad, wgrad = (functools.partial(product, role) for role in ("fprop", "dgrad", "wgrad"))


class Rung(NamedTuple):
    """Cases whose highest feature is the rung's, those of fewer features first."""

    feature: str
    cases: tuple[Case, ...]


def covering(ladder: Sequence[Rung], features: Callable[[Case], Sequence[str]]) -> set[Case]:
    """Few cases that together have every feature: from the highest rung down, one of each whose feature no case has yet."""
    taken: set[Case] = set()
    for rung in reversed(ladder):
        if not any(rung.feature in features(case) for case in taken):
            taken.add(next((case for case in rung.cases if not case.extended), rung.cases[0]))
    return taken


def held(features: Mapping[str, Callable[[Any], bool]], found: Any) -> tuple[str, ...]:
    """The features that hold of what was found about a case, in their order; the last one is the case's rung."""
    return tuple(name for name, holds in features.items() if holds(found))

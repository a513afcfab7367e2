"""A rung of the ladder, and short names for the products on it."""

import functools
from typing import NamedTuple

from ..configured import Case, product

fprop, dgrad = functools.partial(product, "fprop"), functools.partial(product, "dgrad")


class Rung(NamedTuple):
    """Cases whose highest feature is the rung's, those of fewer features first."""

    feature: str
    cases: tuple[Case, ...]

"""What a rule is: the rooms of the platforms hold lists of them."""

import dataclasses
from collections.abc import Callable

from .catalogue import Sizes


@dataclasses.dataclass(frozen=True)
class Rule:
    """If `applies`, the first of `formulations` that serves the product and fits into memory, because of `why`."""

    applies: Callable[[Sizes], bool]
    formulations: tuple[str, ...]
    why: str

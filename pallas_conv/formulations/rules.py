"""What a rule is; cpu.py and nvidia.py hold lists of them."""

import dataclasses
from collections.abc import Callable, Sequence

from .catalogue import Sizes


@dataclasses.dataclass(frozen=True)
class Rule:
    """If `applies`, the first of `formulations` that serves the product and fits into memory, because of `why`."""

    applies: Callable[[Sizes], bool]
    formulations: tuple[str, ...]
    why: str


def first(rules: Sequence[Rule], sizes: Sizes, usable: Callable[[str], bool]) -> tuple[str, str] | None:
    """The formulation that the first rule with a usable one asks for, and why."""
    for rule in rules:
        if rule.applies(sizes) and (name := next(filter(usable, rule.formulations), None)):
            return name, rule.why
    return None

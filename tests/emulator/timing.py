"""The timing that the ISA leaves open: asynchronous operations are delayed, and warps take turns.

random  short, long and very long delays mixed, warps in random order
late    nothing asynchronous happens before every warp is blocked
early   at once, and warps one after the other
"""

import itertools
import random
from collections.abc import Sequence

MODES = ("random", "late", "early")
NEVER_BEFORE_ALL_ARE_BLOCKED = 10**9


class Timing:
    """Time counts instructions that other warps can see."""

    def __init__(self, mode: str = "random", seed: int = 0):
        if mode not in MODES:
            raise ValueError(f"{mode=} is none of {MODES}")
        self.mode, self.random = mode, random.Random(seed)
        self.turns = itertools.count()

    def delay(self) -> int:
        """A delay for an asynchronous operation."""
        if self.mode == "early":
            return 0
        if self.mode == "late":
            return NEVER_BEFORE_ALL_ARE_BLOCKED + self.random.randrange(1000)
        kind = self.random.random()
        return self.random.randrange(5 if kind < 0.3 else 200 if kind < 0.8 else 4000)

    def switches(self) -> bool:
        """Whether another warp comes next, though this one could go on."""
        return self.mode == "early" or self.random.random() < 0.4

    def choose[T](self, ready: Sequence[T]) -> T:
        return ready[next(self.turns) % len(ready)] if self.mode == "early" else self.random.choice(ready)

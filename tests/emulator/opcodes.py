"""The function that an opcode means. An opcode that no pattern matches as a whole, modifiers included, is unknown."""

import re
from collections.abc import Callable


class Opcodes[F: Callable]:
    """Functions, each with a pattern of all opcodes that it is right for."""

    def __init__(self):
        self._meanings: list[tuple[re.Pattern, F]] = []

    def __call__(self, pattern: str) -> Callable[[F], F]:
        def register(function: F) -> F:
            self._meanings.append((re.compile(pattern), function))
            return function

        return register

    def find(self, op: str) -> tuple[F, re.Match] | None:
        for pattern, function in self._meanings:
            if match := pattern.fullmatch(op):
                return function, match
        return None

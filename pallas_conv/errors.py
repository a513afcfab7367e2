"""The exceptions of this package."""

from collections.abc import Sequence
from typing import Any


class UnsupportedError(NotImplementedError):
    """Raised when no implementation that the caller named serves a product.

    reasons: every reason, one string each.
    """

    def __init__(self, what: str, reasons: Sequence[str]):
        self.what, self.reasons = what, tuple(reasons)
        listed = "".join(f"\n  - {reason}" for reason in self.reasons)
        super().__init__(f"{what}:{listed}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.reasons)  # not the message, from which pickle would make another

    @classmethod
    def together(cls, errors: Sequence["UnsupportedError"]) -> "UnsupportedError":
        """One error with everything that several say, each thing once."""
        reasons = dict.fromkeys(reason for error in errors for reason in error.reasons)
        return cls("; ".join(dict.fromkeys(error.what for error in errors)), tuple(reasons))

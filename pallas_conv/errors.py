"""The exceptions of this package."""

from collections.abc import Sequence


class UnsupportedError(NotImplementedError):
    """No implementation that the caller named serves a product.

    reasons: every reason, one string each.
    """

    def __init__(self, what: str, reasons: Sequence[str]):
        self.reasons = tuple(reasons)
        listed = "".join(f"\n  - {reason}" for reason in self.reasons)
        super().__init__(f"{what}:{listed}")

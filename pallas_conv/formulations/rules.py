"""Which formulation serves a product where no kernel does."""

from ..spec import Product
from ..target import Target
from .catalogue import CROPPED, STOCK
from .library import misread_on_cpu

CPU_CACHE = 16e6  # bytes that blocks of images should stay within: the level above main memory, or so


def cache(target: Target) -> float | None:
    """What blocks of images should fit into; None where a program had better see them all."""
    return CPU_CACHE if target.platform == "cpu" else None


def choose(product: Product, target: Target) -> tuple[str, str]:
    """The formulation that `auto` takes where no kernel runs, and why."""
    if target.platform == "cpu" and misread_on_cpu(product.role, product.spec):
        return (
            CROPPED,
            "XLA's CPU convolution reads out of bounds where one dimension is cropped before and padded after",
        )
    return STOCK, "no faster program is known here"

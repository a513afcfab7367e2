"""Chooses the formulation of a product that no kernel serves: by the platform's rules, else stock's program."""

from ..spec import Product
from ..target import Target
from . import cpu, nvidia
from .catalogue import STOCK


def choose(
    product: Product, target: Target, beside_kernels: bool = False, channels_last: bool = False
) -> tuple[str, str]:
    """The formulation that `auto` takes where no kernel runs, and why.

    beside_kernels: whether kernels serve other products of the same equation.
    channels_last: whether the caller's images lie so.
    """
    if target.platform == "cpu":
        return cpu.choose(product, channels_last, target.amx)
    if target.platform == "cuda":
        return nvidia.choose(product, beside_kernels)
    return STOCK, "no faster program is known here"


def cache(target: Target) -> float | None:
    """Number of bytes that blocks of images should fit into. None where a program had better see all images."""
    return cpu.CACHE if target.platform == "cpu" else None

"""The suite's products that kernels may be asked for, and those of them that one serves."""

import functools
from collections.abc import Iterator

from pallas_conv.kernels import families
from pallas_conv.kernels.family import Family
from pallas_conv.kernels.gpu import HOPPER
from pallas_conv.spec import Product

from .cases import suite


def products() -> Iterator[tuple[str, Product]]:
    """The products of every layer of the suite that some family computes, as in 'resnet50_c2/f'."""
    for case in suite():
        yield from ((f"{case.name}/{d}", product) for d, product in case.products().items() if computed(product))


def computed(product: Product) -> bool:
    """Whether some family of kernels computes products of this role, though it need not serve this one."""
    return any(product.role in family.roles for family in families.FAMILIES)


def served(family: Family | None = None) -> dict[str, Product]:
    """The products that a kernel serves on Hopper, or that one of this family does, by name."""
    return {name: product for name, product, by in _found() if not isinstance(by, tuple) and family in (None, by)}


@functools.cache
def _found() -> tuple[tuple[str, Product, Family | tuple[str, ...]], ...]:
    return tuple((name, product, families.find(product, HOPPER.capability)) for name, product in products())

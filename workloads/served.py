"""The suite's products that kernels may be asked for, and those of them that one serves."""

from collections.abc import Iterator

from pallas_conv.kernels import families
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


def served() -> dict[str, Product]:
    """The products that a kernel serves on Hopper, by name."""
    return {name: product for name, product in products() if not families.reasons(product, HOPPER.capability)}


def weight_gradients() -> dict[str, Product]:
    """The weight gradients of the suite's layers that a kernel serves on Hopper, by name, as in 'resnet50_c2/w'."""
    found = {f"{case.name}/w": case.products()["w"] for case in suite() if "w" in case.directions}
    return {name: product for name, product in found.items() if not families.reasons(product, HOPPER.capability)}

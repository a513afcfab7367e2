"""The families of kernels there are, and which of them serves a product."""

import importlib
from types import ModuleType

from pallas_conv.spec import Product

from .dense import DENSE
from .depthwise import DEPTHWISE
from .family import Family, Size
from .gpu import GENERATIONS, generations
from .large_depthwise import LARGE_DEPTHWISE
from .packed_groups import PACKED_GROUPS
from .pointwise import POINTWISE
from .tap_blocks import TAP_BLOCKS
from .wgrad import WEIGHT_GRADIENT

# In this order they are asked: the first one that serves a product does.
FAMILIES: tuple[Family, ...] = (
    DENSE,
    WEIGHT_GRADIENT,
    LARGE_DEPTHWISE,
    DEPTHWISE,
    TAP_BLOCKS,
    PACKED_GROUPS,
    POINTWISE,
)


def named(name: str) -> Family:
    """The family of this name. Raises KeyError if there is none."""
    return {family.name: family for family in FAMILIES}[name]


def find(product: Product, capability: tuple[int, int] | None) -> Family | tuple[str, ...]:
    """The first family that serves a product on a GPU of this compute capability; else every reason against."""
    device = _device_reasons(capability)
    suited = [family for family in FAMILIES if family.is_for(product)] or FAMILIES
    against = list[str]()
    for family in [family for family in suited if product.role in family.roles] or suited:
        missing = [] if device or capability in family.bodies else [f"no {family.name} kernel is written for this GPU"]
        if found := [*missing, *family.reasons(product)]:
            against += found
        elif product.role not in family.roles:
            against.append(f"no {family.name} kernel is written for the product {product.role!r}")
        else:  # the family serves it, if the device is one for kernels
            return tuple(device) if device else family
    return tuple(dict.fromkeys((*device, *against)))


def reasons(product: Product, capability: tuple[int, int] | None) -> tuple[str, ...]:
    """Every reason why no kernel serves a product on a GPU of this compute capability; empty if one does."""
    found = find(product, capability)
    return found if isinstance(found, tuple) else ()


def serving(product: Product) -> Family | None:
    """The first family that serves a product on some GPU."""
    return next((f for f in FAMILIES if product.role in f.roles and not f.reasons(product)), None)


def size(product: Product) -> Size:
    """The size of a product that some family serves. Raises ValueError for others."""
    if family := serving(product):
        return family.size(product)
    raise ValueError(f"no kernel serves {product}")


def body(family: Family, capability: tuple[int, int]) -> ModuleType:
    """The module with a family's kernel for a GPU generation; importing it imports Pallas."""
    return importlib.import_module(family.bodies[capability], __package__)


def _device_reasons(capability: tuple[int, int] | None) -> list[str]:
    if capability in GENERATIONS:
        return []
    found = "the GPU is unknown" if capability is None else "this GPU has {}.{}".format(*capability)
    return [f"the kernels require compute capability {generations()}: {found}"]

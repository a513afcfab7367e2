"""The products that are served with packed groups, the reasons against others, and the names that they are filed under."""

from pallas_conv.spec import Product

from ..family import MOST_NARROW, Size, channels_of_a_group
from .plan import LAUNCHED, Config, counts, packed, reasons_of_launched


def is_for(product: Product) -> bool:
    """Whether groups have few channels on one side alone."""
    channels = channels_of_a_group(product)
    return product.spec.groups > 1 and min(channels) <= MOST_NARROW < max(channels)


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why a product is not served; empty if it is."""
    if not is_for(product):
        given, wanted = channels_of_a_group(product)
        groups = f"{product.spec.groups} of {given} in and {wanted} out"
        wished = f"at most {MOST_NARROW} channels on one side and more on the other"
        return (f"there must be groups, of {wished}, not {groups}",)
    if product.role not in LAUNCHED:
        return (f"for groups of few channels on one side there is no kernel for the product {product.role!r}",)
    return () if counts(product) else reasons_of_launched(product)


def size(product: Product) -> Size:
    """The size of a product, see `Size`. Zeros among packed weights do not count."""
    return LAUNCHED[product.role].size(product)


def series(product: Product) -> str:
    """A name for products that are treated alike but for their size: the launched kernel's, and the most groups as one."""
    return f"{LAUNCHED[product.role].series(product)}_by_{counts(product)[-1]}"


def code_path(product: Product, config: Config) -> str:
    """The code path of the launched kernel, and whether weights or their gradients are packed around it."""
    path = LAUNCHED[product.role].code_path(packed(product, config.count), config.tile)
    return f"{path} packed" if config.count > 1 else path


def epilogue(product: Product, config: Config) -> str:
    """The epilogue of the launched kernel."""
    return LAUNCHED[product.role].epilogue(packed(product, config.count), config.tile)


def notes(product: Product, config: Config) -> tuple[str, ...]:
    """The cost of packing, and the copies of activations that XLA makes around the launched kernel."""
    found = tuple(LAUNCHED[product.role].notes(packed(product, config.count), config.tile))
    if (count := config.count) == 1:
        return found
    as_one = f"{count} groups are computed as one"
    vain = f"at least {count - 1} of {count} multiply-adds are"
    if product.role == "wgrad":
        return (f"{as_one}: {vain} of gradients between different groups, which are dropped", *found)
    return (f"{as_one}, with weights in blocks on a diagonal: {vain} with zeros", *found)

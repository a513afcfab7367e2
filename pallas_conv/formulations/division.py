"""The lax programs that XLA's partitioner divides over devices, and those for which it first gathers images."""

from ..spec import Product
from .canonical import upsamples
from .catalogue import FORMULATIONS


def xla_divides(formulation: str, product: Product) -> bool:
    """Whether images that are sharded stay where they are if XLA divides this program.

    They do in loops over elements, in matrix products and in convolutions without groups. For the library's convolutions in
    groups, which those of independent models side by side are too, XLA gathers the batch on every device. The exceptions are
    one input channel a group, and grouped weight gradients, which sum over images, unless x is dilated.
    """
    program = FORMULATIONS.get(formulation)
    if program is not None and program.blocks is not None:
        return True
    groups = product.spec.groups
    if groups * (product.models or 1) == 1:
        return True
    if product.role == "wgrad":
        return groups > 1 and not upsamples(product.spec)
    return groups == (product.in_channels if product.role == "fprop" else product.out_channels)

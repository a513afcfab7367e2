"""Groups of few channels on one side, on Hopper: launches of the dense and of the weight-gradient kernel.

Both take groups of any size. But tensor cores sum over sixteen channels at once, and strides of TMA are sixteen bytes. Groups
of fewer channels are filled up with zeros, in a copy of the pixels, and the zeros are multiplied. Where several groups are
computed as one, zeros are among the weights instead, which are small, and pixels stay as they are.
"""

from jax import Array

from pallas_conv.spec import Product

from ..dense import sm90 as dense
from ..gpu import Gpu
from ..wgrad import sm90 as wgrad
from .packing import block_diagonal, diagonal_blocks
from .plan import Config, packed


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the kernel once, of groups that are packed. Arrays are channels first, as the launched kernel's `run` has them."""
    launched = packed(product, cfg.count)
    if product.role == "wgrad":
        dw, *db = wgrad.run(launched, cfg.tile, gpu, *operands, name=name, interpret=interpret)
        return [diagonal_blocks(dw, product, cfg.count), *db]
    pixels, w, *others = operands
    w = block_diagonal(w, product, cfg.count)
    return dense.run(launched, cfg.tile, gpu, pixels, w, *others, name=name, interpret=interpret)

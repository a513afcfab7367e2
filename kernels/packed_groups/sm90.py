"""Groups of few channels on one side, on Hopper: launches of the dense and of the weight-gradient kernel.

Both compute groups of any size. But a matrix instruction takes at least sixteen channels, and strides of TMA are multiples of
sixteen bytes. So small groups, one by one, are filled up with zeros in a copy of the pixels, and the zeros are multiplied. With
several groups as one, zeros are among the weights instead, which are small, and pixels need no copy.
"""

from jax import Array

from pallas_conv.spec import Product

from ..dense import sm90 as dense
from ..gpu import Gpu
from ..wgrad import sm90 as wgrad
from .legal import illegal
from .packing import block_diagonal, diagonal_blocks
from .plan import Config, Problem, packed


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the kernel once, on the packed product. Arrays are channels first, as the launched kernel's `run` has them."""
    if why := illegal(Problem.of(product), cfg, gpu):
        raise ValueError(why)
    launched = packed(product, cfg.count)
    if product.role == "wgrad":
        dw, *db = wgrad.run(launched, cfg.tile, gpu, *operands, name=name, interpret=interpret)
        return [diagonal_blocks(dw, product, cfg.count), *db]
    pixels, w, *others = operands
    w = block_diagonal(w, product, cfg.count)
    return dense.run(launched, cfg.tile, gpu, pixels, w, *others, name=name, interpret=interpret)

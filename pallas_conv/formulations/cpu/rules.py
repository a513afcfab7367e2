"""Rules that choose the formulation of a product on a CPU, fitted to the measurements in bench/results.

They name families of products, not layers, and leave out what was not clearly faster (python -m bench.formulations).
"""

import jax.numpy as jnp

from ...spec import Product
from .. import blocks, catalogue
from ..catalogue import CHANNELS_LAST, CROPPED, STOCK
from ..formulation import Formulation, Rule, first
from ..programs.library import misread_on_cpu
from ..sizes import Sizes
from . import images
from .dense import DENSE
from .grouped import GROUPED, SIDE_BY_SIDE
from .terms import TINY

CACHE = 16e6  # bytes that blocks of images should stay within: the level above main memory, or so
SPARE_MEMORY = 64e6  # bytes of temporary memory that a program may take where stock's takes less
SPARE_OF_IMAGES = 32e6  # those that a program with copies of both operands may take at all


def choose(product: Product, channels_last: bool = False, amx: bool = False) -> tuple[str, str]:
    """The formulation that `auto` takes where no kernel runs, and why. The rules were fitted to images channels first.

    amx: whether the CPU has instructions for products of bfloat16 matrices.
    """
    if not jnp.issubdtype(product.compute_dtype, jnp.inexact):
        return STOCK, "integers are left to stock's program"
    served = {f.name: f for f in catalogue.serving(product)}
    if served:
        s = Sizes.of(product)
        if channels_last and s.is_unstrided_conv and s.taps == 1 and s.spec.groups == 1:
            return CHANNELS_LAST, "a 1x1 convolution of images channels last, which the library takes as they lie"
        rules: tuple[Rule, ...]
        if s.spec.groups > 1:
            rules = GROUPED
        elif product.models is not None:
            rules = (*SIDE_BY_SIDE, *DENSE)
        else:
            rules = DENSE if s.useful_flops >= TINY else ()
        usual = first(rules, s, lambda name: name in served and _fits(served[name], product))
        of_images = first(images.rules(s, amx), s, lambda name: name in served and _small(served[name], product))
        if product.compute_dtype == "bfloat16":  # whose usual rules were fitted to products of widened matrices
            usual, of_images = of_images, usual
        if found := usual or of_images:
            return found
    if misread_on_cpu(product.role, product.spec):
        return (
            CROPPED,
            "XLA's CPU convolution reads out of bounds where one dimension is cropped before and padded after",
        )
    return CHANNELS_LAST, "no program is known to be faster on a CPU; XLA calls its library for this form in loops, too"


def _fits(formulation: Formulation, product: Product) -> bool:
    needed = blocks.cost(formulation, product, CACHE).temp
    return needed <= max(_stocks_memory(product), SPARE_MEMORY)


def _small(formulation: Formulation, product: Product) -> bool:
    """Whether all images fit in memory at once.

    The array that a block of images is copied from stays in memory, too, and these programs copy both operands.
    """
    return blocks.cost(formulation, product, None).temp <= SPARE_OF_IMAGES


def _stocks_memory(product: Product) -> float:
    """Temporary memory of stock's program, modelled, at least: operands once more, in the library's layout."""
    s = Sizes.of(product)
    return max(s.x, s.y)

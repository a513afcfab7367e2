"""Every formulation by name, and which of them serve a product."""

import jax.numpy as jnp

from ..spec import Product
from .formulation import Formulation
from .programs import columns, correlate, depth, multiply_add, per_tap, prepared, split_columns
from .sizes import Sizes

STOCK = "stock"
CHANNELS_LAST = "channels_last"  # stock's program, with operands transposed as XLA's CPU library wants them
CROPPED = "cropped"  # the same, after a pad of the dimensions that XLA would misread
LIKE_STOCK = (STOCK, CHANNELS_LAST, CROPPED)  # outside of loops XLA makes the same of them

# Those beside stock's, in the order in which they are listed and timed.
FORMULATIONS: dict[str, Formulation] = {
    formulation.name: formulation
    for family in (multiply_add, correlate, columns, split_columns, per_tap, depth, prepared)
    for formulation in family.FORMULATIONS
}


def serving(product: Product) -> list[Formulation]:
    """The formulations of a product beside stock's.

    None where there is nothing to compute, no canonical form, no spatial axis, or an extent that export left open; and none
    for integers, which wrap around in stock's program.
    """
    if not jnp.issubdtype(product.compute_dtype, jnp.inexact):
        return []
    models = 1 if product.models is None else product.models
    sizes = (product.batch, models, product.in_channels, product.out_channels, *product.spec.in_spatial)
    if product.spec.ndim == 0 or not all(isinstance(n, int) for n in sizes):
        return []
    s = Sizes.of(product)
    if min(*sizes, *s.spec.out_spatial, *s.spec.kernel_spatial, *product.spec.out_spatial) < 1:
        return []
    return [f for f in FORMULATIONS.values() if f.serves(s)]

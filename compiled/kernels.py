"""A kernel by itself, compiled for an H100, with what it uses of it."""

import functools
from typing import Any

import jax

from pallas_conv.kernels import serve
from pallas_conv.spec import Product

from . import aot


def operands(product: Product) -> list[jax.ShapeDtypeStruct]:
    """The operands of a product's kernel, as a layer hands them over."""
    dtypes = [product.out_dtype if name == "r" else product.compute_dtype for name in product.operands]
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(product.operand_shapes, dtypes, strict=True)]


@functools.cache
def compiled(product: Product, config: Any) -> tuple[jax.stages.Compiled, aot.Resources]:
    """The kernel of a product under a configuration by itself, compiled for an H100."""
    return aot.resources("h100", serve.kernel(product, config=config).run, *operands(product))

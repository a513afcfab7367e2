"""A kernel by itself, compiled for an H100, with what it uses of it."""

import functools
from typing import Any

import jax

from pallas_conv.equation import operands_of
from pallas_conv.kernels import serve
from pallas_conv.spec import Product

from . import aot


@functools.cache
def compiled(product: Product, config: Any) -> tuple[jax.stages.Compiled, aot.Resources]:
    """The kernel of a product under a configuration by itself, compiled for an H100."""
    return aot.resources("h100", serve.kernel(product, config=config).run, *operands_of(product))

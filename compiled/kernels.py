"""A kernel by itself, compiled for an H100, with what it uses of it."""

import functools

import jax

from pallas_conv.kernels import config
from pallas_conv.spec import Product

from . import aot


@functools.cache  # JAX 0.12 compiles a kernel once a process, and has nothing to say of it the second time
def compiled(product: Product, cfg: config.Config) -> tuple[jax.stages.Compiled, aot.Resources]:
    """The kernel by itself, compiled for an H100."""
    from pallas_conv.kernels.launch import launch

    dtypes = [product.compute_dtype] * (2 + product.bias) + [product.out_dtype] * product.residual
    args = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(product.operand_shapes, dtypes, strict=True)]
    return aot.resources("h100", functools.partial(launch, product, cfg), *args)

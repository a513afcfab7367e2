"""A product of arrays by the formulation that was taken."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..equation import BILINEAR, Op, collapse_axes, wider
from ..spec import Product
from . import blocks, catalogue
from .formulation import How
from .programs import library


def run_formulation(
    formulation: str,
    product: Product,
    a: Array,
    b: Array,
    op: Op,
    dtype: Any,
    *,
    wide_sums: bool,
    cache: float | None = None,
    on_cpu: bool = False,
    narrow_matmuls: bool = False,
) -> Array:
    """fprop(x, w) -> y, dgrad(ct, w) -> dx or wgrad(x, ct) -> dw, by the product's role.

    product  what a and b are once leading axes are collapsed; its epilogue, if it has one, is left to the caller
    a, b     operands with any number of leading axes, see `equation`

    The result has `dtype`. Formulations that call the platform's library sum as stock does: with `wide_sums` the library
    stores the wider of `dtype` and the compute dtype, without it the compute dtype. All others sum in at least float32. Those
    with `blocks` run over as many images at a time as fit into `cache` bytes. `on_cpu` is whether XLA's CPU compiler is to
    recognise the library's convolutions wherever they stand; stock's program stays what it is. `narrow_matmuls` is whether
    matrix products read bfloat16 as it is: the products and sums are the same, and some CPUs have instructions for it.

    The derivatives are written out, not taken by `jax.linear_transpose` of the forward product: inside `shard_map` that
    adds a hidden sum over devices.
    """
    role, names = product.role, BILINEAR[product.role][0]
    leading = a.shape[: op.ensemble_axes + (0 if role == "wgrad" else op.batch_axes(a.ndim))]
    a, b = (collapse_axes(op, name, t).astype(op.compute_dtype) for name, t in zip(names, (a, b), strict=True))
    assert (a.shape, b.shape) == product.operand_shapes[:2], (product, a.shape, b.shape)
    program = catalogue.FORMULATIONS.get(formulation)
    if program is None or program.library:
        stored = wider(op.compute_dtype, dtype) if wide_sums else op.compute_dtype
    else:
        stored = op.accumulator_dtype
    how = How(op.precision, None if stored == op.compute_dtype else stored, on_cpu and formulation != catalogue.STOCK)

    def one_model(a: Array, b: Array) -> Array:
        if formulation in (catalogue.STOCK, catalogue.CHANNELS_LAST):
            return library.stock(role, a, b, op.spec, how)
        if formulation == catalogue.CROPPED:
            return library.cropped(role, a, b, op.spec, how)
        assert program is not None, formulation

        def once(a: Array, b: Array) -> Array:
            """The product of a block of images: no more than that is widened at once."""
            if not program.library and not (narrow_matmuls and program.matmul and op.compute_dtype == jnp.bfloat16):
                a, b = a.astype(stored), b.astype(stored)
            y = program.run(role, a, b, op.spec, how)
            return y if role == "wgrad" else y.astype(dtype)

        if program.loop:  # else an operand would be computed where it is padded, one element at a time
            a, b = lax.optimization_barrier((a, b))
        y = blocks.run(once, role, blocks.images_at_once(program, product, cache), a, b)
        # Else a sum over taps would be computed anew inside each operation that reads it.
        return y if program.library or role == "wgrad" else lax.optimization_barrier(y)

    y = (jax.vmap(one_model) if op.ensemble_axes else one_model)(a, b)
    collapsed = (op.ensemble_axes > 0) + (role != "wgrad")
    return y.astype(dtype).reshape(*leading, *product.result_shapes[0][collapsed:])

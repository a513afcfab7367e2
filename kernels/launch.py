"""Run a kernel: channels-first arrays in, channels-first arrays out."""

import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from . import support, taps
from .config import H100_SMS, Config
from .dense import dense
from .epilogue import Epilogue


def launch(
    product: Product, config: Config, *operands: Array, num_sms: int = H100_SMS, interpret: bool = False
) -> list[Array]:
    """One launch of the kernel of a product that `support.reasons` has nothing against.

    fprop: x (N, C, *in), w (O, C / groups, *kernel), b (O,) if product.bias, r (N, O, *out) if product.residual
           -> (N, O, *out) for each of product.outputs
    dgrad: ct (N, O, *out), w (O, C / groups, *kernel) -> [(N, C, *in)]

    With product.models, every array has that axis first. The transpositions to channels last and back are changes of
    layout: XLA cancels them between layers.
    """
    if product.models is None:
        operands = tuple(t[None] for t in operands)
    source, w = (operand.astype(product.compute_dtype) for operand in operands[:2])
    bias = operands[2].astype(jnp.float32) if product.bias else None
    residual = operands[-1].astype(product.out_dtype) if product.residual else None
    groups, nd = product.spec.groups, product.spec.ndim
    together = source.shape[0] * groups  # the kernel knows no models: their groups are groups like any
    w = w.reshape(together, w.shape[1] // groups, *w.shape[2:])  # (G, O / G, C / G, *kernel)
    summed = 2 if product.role == "fprop" else 1  # channels of w that the product sums over
    w = jnp.transpose(w, (*range(3, 3 + nd), 0, 3 - summed, summed))
    if w.dtype == jnp.float32:  # wgmma truncates to TF32; weights can be rounded beforehand, for half the error
        w = lax.reduce_precision(w, exponent_bits=8, mantissa_bits=10)
    outs = dense(
        _channels_last(source, groups),
        w,
        bias.reshape(together, -1) if bias is not None else None,
        _channels_last(residual, groups) if residual is not None else None,
        taps.dims(product),
        config,
        epilogue=Epilogue(product.activation, product.outputs),
        out_dtype=product.out_dtype,
        name=support.kernel_name(product),
        num_sms=num_sms,
        interpret=interpret,
    )
    return [_channels_first(out, product.models) for out in outs]


def _channels_last(a: Array, groups: int) -> Array:
    """(models, N, groups * C, *spatial) -> [N, *spatial, models * groups, C]."""
    models, images, channels, *spatial = a.shape
    a = a.reshape(models, images, groups, channels // groups, *spatial)
    a = jnp.transpose(a, (1, *range(4, a.ndim), 0, 2, 3))
    return a.reshape(images, *spatial, models * groups, channels // groups)


def _channels_first(a: Array, models: int | None) -> Array:
    """[N, *spatial, models * groups, C] -> (models, N, groups * C, *spatial), without models if they are None."""
    if models is None:
        return jnp.moveaxis(a.reshape(*a.shape[:-2], -1), -1, 1)
    a = a.reshape(*a.shape[:-2], models, -1)
    return jnp.transpose(a, (a.ndim - 2, 0, a.ndim - 1, *range(1, a.ndim - 2)))

"""The dense kernel's operands and results: channels last, and as a kernel's TMA sees them in global memory."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from ..geometry import TapAxis
from ..layouts import channels_last
from ..views import PixelBoxes, ResultBoxes, pad, reordered, unaligned
from .plan import Config, Problem


def channels_last_operands(
    product: Product, operands: Sequence[Array]
) -> tuple[Array, Array, Array | None, Array | None]:
    """x [N, *in, G, C], w [*kernel, G, O, C], bias [G, O] and residual [N, *out, G, O], which may be None.

    Several models are so many more groups: the kernel does not tell them apart.
    """
    if product.models is None:
        operands = tuple(t[None] for t in operands)
    source, w = (operand.astype(product.compute_dtype) for operand in operands[:2])
    bias = operands[2].astype(jnp.float32) if product.bias else None
    residual = operands[-1].astype(product.out_dtype) if product.residual else None
    groups, nd = product.spec.groups, product.spec.ndim
    together = source.shape[0] * groups
    w = w.reshape(together, w.shape[1] // groups, *w.shape[2:])  # (G, O / G, C / G, *kernel)
    summed = 2 if product.role == "fprop" else 1  # channels of w that the product sums over
    w = jnp.transpose(w, (*range(3, 3 + nd), 0, 3 - summed, summed))
    if w.dtype == jnp.float32:  # wgmma truncates to TF32; weights can be rounded beforehand, for half the error
        w = lax.reduce_precision(w, exponent_bits=8, mantissa_bits=10)
    return (
        channels_last(source, groups),
        w,
        bias.reshape(together, -1) if bias is not None else None,
        channels_last(residual, groups) if residual is not None else None,
    )


@dataclasses.dataclass(frozen=True)
class Views:
    """Operands and results in global memory."""

    problem: Problem
    cfg: Config
    dtype: Any
    out_dtype: Any
    interpret: bool

    @property
    def dims(self) -> tuple[TapAxis, ...]:
        return self.problem.dims

    @functools.cached_property
    def pixels(self) -> PixelBoxes:
        """The pixels, [N, *in, G, C]."""
        one_image = len(self.dims) == 3 and self.cfg.tile_pixels[0] == 1
        return PixelBoxes(self.problem.batch, self.dims, self.problem.groups, one_image, self.interpret)

    def weights(self, w: Array) -> Array:
        """[*kernel, G, O, C] with the taps of a phase side by side, in the order of their offsets."""
        for i, d in enumerate(self.dims):
            w = reordered(w, i, d.order)
        return pad(w, [(0, 0)] * (w.ndim - 1) + [(0, unaligned(self.problem.in_channels, self.dtype))])

    @functools.cached_property
    def results(self) -> ResultBoxes:
        """The outputs, [N, *out, split_k G, O]."""
        p = self.problem
        return ResultBoxes(p.batch, self.dims, self.cfg.split_k * p.groups, p.out_channels, self.out_dtype)

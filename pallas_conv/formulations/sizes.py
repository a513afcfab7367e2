"""Sizes: what the conditions, costs and rules of formulations are written in."""

import dataclasses
import math

import jax.numpy as jnp

from ..spec import ConvSpec, Product
from .canonical import canonical, upsamples


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A product in canonical form, see `canonical`: its extents and its kind. Arrays are in bytes of the dtype of the sums.

    swapped   whether it was rewritten for that: an input gradient as a forward pass, where the cotangent is x and the result
              y, or the weight gradient of a transposed convolution with x and the cotangent exchanged
    """

    product: Product
    swapped: bool = False

    @classmethod
    def of(cls, product: Product) -> "Sizes":
        q = canonical(product)
        return cls(q, q != product)

    @property
    def spec(self) -> ConvSpec:
        return self.product.spec

    # ---------------------------------------------------------------- extents

    @property
    def images(self) -> int:
        """Images of all models together."""
        return self.product.batch * (self.product.models or 1)

    @property
    def taps(self) -> int:
        return math.prod(self.spec.kernel_spatial)

    @property
    def phases(self) -> int:
        """Output phases of a transposed convolution, by which taps meet an output: one for every combination of residues."""
        return math.prod(self.spec.input_dilation)

    @property
    def in_pixels(self) -> int:
        return math.prod(self.spec.in_spatial)

    @property
    def out_pixels(self) -> int:
        return math.prod(self.spec.out_spatial)

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.product.in_channels // self.spec.groups

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.product.out_channels // self.spec.groups

    @property
    def terms(self) -> int:
        """Terms of the sum that is one output element: taps times input channels of a group."""
        return self.taps * self.group_in

    @property
    def useful_flops(self) -> float:
        """Useful operations: two for every multiply-add, if each tap meets every input and output pixel at most once."""
        pixels = min(self.in_pixels, self.out_pixels)
        return 2.0 * self.images * self.product.out_channels * self.terms * pixels

    # ---------------------------------------------------------------- bytes

    @property
    def itemsize(self) -> int:
        return max(4, jnp.dtype(self.product.compute_dtype).itemsize)

    @property
    def x(self) -> float:
        return float(self.itemsize) * self.images * self.product.in_channels * self.in_pixels

    @property
    def y(self) -> float:
        return float(self.itemsize) * self.images * self.product.out_channels * self.out_pixels

    @property
    def w(self) -> float:
        return float(self.itemsize) * (self.product.models or 1) * self.product.out_channels * self.group_in * self.taps

    @property
    def columns(self) -> float:
        """All windows of x side by side; none are needed where one tap meets every pixel."""
        if self.taps == 1 and max(self.spec.strides) == 1:
            return 0.0
        return float(self.itemsize) * self.images * self.product.in_channels * self.taps * self.out_pixels

    # ---------------------------------------------------------------- kinds

    @property
    def is_conv(self) -> bool:
        """A convolution whose input has no holes: the forward pass of a convolution, or the input gradient of one without
        strides, or of a transposed one.
        """
        return self.product.role == "fprop" and not upsamples(self.spec)

    @property
    def is_unstrided_conv(self) -> bool:
        """Whether the product is a plain convolution without strides."""
        return self.is_conv and max(self.spec.strides) == 1

    @property
    def is_transposed(self) -> bool:
        """A transposed convolution, without strides: the forward pass of one, or the input gradient of a strided one."""
        return self.product.role == "fprop" and upsamples(self.spec) and max(self.spec.strides) == 1

    @property
    def is_wgrad(self) -> bool:
        """A weight gradient, where x has no holes: of a convolution, or, swapped, of a transposed one."""
        return self.product.role == "wgrad" and not upsamples(self.spec)

    @property
    def padded_unevenly(self) -> bool:
        """Padded more on one side than on the other, in some dimension."""
        return any(low != high for low, high in self.spec.padding)

    @property
    def can_pad_evenly(self) -> bool:
        """Padded unevenly, though padding both sides by `low` gives as many outputs, and so the same ones."""
        even = dataclasses.replace(self.spec, padding=tuple((low, low) for low, _ in self.spec.padding))
        return self.padded_unevenly and even.out_spatial == self.spec.out_spatial

    @property
    def is_polyphase(self) -> bool:
        """A dilated convolution of sequences that is one without holes of every d-th element, for each residue modulo the
        dilation d: it has no stride, and d divides the number of outputs.
        """
        if self.spec.ndim != 1 or self.spec.strides != (1,):
            return False
        (d,) = self.spec.kernel_dilation
        return d > 1 and self.spec.out_spatial[0] % d == 0

"""Every product as one of two: a kernel sliding over an image, or an image correlated with the cotangent of its result.

An input gradient is itself a convolution, with strides and input dilation exchanged, taps reversed and channels exchanged
within each group. A weight gradient does not change if x and the cotangent change places together with their geometry, so the
one that is dilated can always be the one that slides. A lax program is therefore written twice at most: for `fprop` and for
the `wgrad` of a convolution without input dilation. (With strides and input dilation both, which no layer has, it is neither.)
"""

import dataclasses

from jax import Array, lax

from ..spec import ConvSpec, Product, dilated


def adjoint(spec: ConvSpec) -> ConvSpec:
    """The convolution from the output of `spec` back to its input."""
    padding = []
    extents = (
        [dilated(n, d) for n, d in zip(spec.kernel_spatial, spec.kernel_dilation, strict=True)],
        [dilated(n, d) for n, d in zip(spec.in_spatial, spec.input_dilation, strict=True)],
        [dilated(n, d) for n, d in zip(spec.out_spatial, spec.strides, strict=True)],
    )
    for (low, _), window, size, outs in zip(spec.padding, *extents, strict=True):
        before = window - low - 1
        padding.append((before, size + window - 1 - outs - before))
    return dataclasses.replace(
        spec,
        strides=spec.input_dilation,
        padding=tuple(padding),
        input_dilation=spec.strides,
        in_spatial=spec.out_spatial,
    )


def adjoint_weight(w: Array, groups: int) -> Array:
    """(O, C // groups, *kernel) -> (C, O // groups, *kernel) with its taps reversed. Its own inverse."""
    w = lax.rev(w, tuple(range(2, w.ndim)))
    o, c, *kernel = w.shape
    return w.reshape(groups, o // groups, c, *kernel).swapaxes(1, 2).reshape(groups * c, o // groups, *kernel)


def upsamples(spec: ConvSpec) -> bool:
    """Whether the input has holes, as that of a transposed convolution."""
    return max(spec.input_dilation, default=1) > 1


def canonical(product: Product) -> Product:
    """The same work as an fprop, or as a wgrad without input dilation."""
    swapped = product.role == "dgrad" or (product.role == "wgrad" and upsamples(product.spec))
    if not swapped:
        return product
    return dataclasses.replace(
        product,
        role="fprop" if product.role == "dgrad" else "wgrad",
        spec=adjoint(product.spec),
        in_channels=product.out_channels,
        out_channels=product.in_channels,
        outputs=(),
    )

"""The library's convolutions, with operands prepared so that it does less: in a form that a GPU's compiler recognises.

The exception is `extra_row`, which is for the compiler of a CPU.
"""

import dataclasses
from collections.abc import Callable

from jax import Array, lax

from ...spec import ConvSpec
from ..formulation import Cost, Formulation, How, Program
from ..sizes import Sizes
from .library import cropped, stock
from .windows import pad_spatial

VERY_MANY = 192  # channels on both sides from which Eigen's convolution is faster than YNNPACK's, and as accurate


def reversed_kernel(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A transposed convolution with a kernel that XLA can see is reversed, which it takes for its library's input gradient.

    Otherwise it fills the input with zeros. The barrier keeps it from cancelling the two reversals.
    """
    spatial = tuple(range(2, w.ndim))
    w = lax.rev(lax.optimization_barrier(lax.rev(w, spatial)), spatial)
    return cropped("fprop", x, w, spec, how)


def exchanged(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The weight gradient of a transposed convolution as that of the convolution it is the adjoint of, see `canonical`."""
    return cropped("wgrad", x, ct, spec, how)


def exchanged_padded(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The same where padding is uneven, padded first: the input gradient needs the same copy, and so there is only one."""
    return exchanged(*_padded_first(x, ct, spec), how)


def padded(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A dilated convolution that is padded unevenly, padded first: XLA would fill the kernel with zeros instead."""
    return stock("fprop", *_padded_first(x, w, spec), how)


def _padded_first(x: Array, other: Array, spec: ConvSpec) -> tuple[Array, Array, ConvSpec]:
    """The operands of a convolution without padding. The barrier keeps XLA from making the pad its padding again."""
    x = lax.optimization_barrier(pad_spatial(x, spec.padding))
    return x, other, dataclasses.replace(spec, padding=((0, 0),) * spec.ndim, in_spatial=x.shape[2:])


def evened(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A strided convolution, padded by `low` on both sides: the outputs are the same, and XLA need not pad a copy first."""
    return stock("fprop", x, w, dataclasses.replace(spec, padding=tuple((low, low) for low, _ in spec.padding)), how)


def extra_row(x: Array, w: Array, spec: ConvSpec, how: How) -> Array:
    """A convolution without strides that computes more rows than its input has, and drops them: XLA's CPU compiler then calls
    Eigen's convolution instead of YNNPACK's, which is slower for very many channels.
    """
    (low, high), *others = spec.padding
    more = max(0, spec.in_spatial[0] + 1 - spec.out_spatial[0])
    y = stock("fprop", x, w, dataclasses.replace(spec, padding=((low, high + more), *others)), how)
    return lax.slice_in_dim(y, 0, spec.out_spatial[0], axis=2)


def polyphase_wgrad(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """The weight gradient of a dilated 1-D convolution: a sequence is an image with one column for each residue modulo the
    dilation, along which the kernel has no holes.
    """
    d = spec.kernel_dilation[0]
    x = pad_spatial(x, spec.padding)
    x, ct = (t.reshape(*t.shape[:2], t.shape[2] // d, d) for t in (x, ct))
    one, none = (1, 1), ((0, 0), (0, 0))
    image = ConvSpec(one, none, one, one, spec.groups, x.shape[2:], (*spec.kernel_spatial, 1))
    return stock("wgrad", x, ct, image, how)[..., 0]


# ---------------------------------------------------------------- conditions and costs


def _cost(s: Sizes) -> Cost:
    """The cost of one call, with every array once more in the layout it wants."""
    return Cost(s.useful_flops, 3 * (s.x + s.y + s.w), 1, s.x + s.y + s.w)


def _swapped_wgrad(s: Sizes) -> bool:
    return s.is_wgrad and s.swapped


def _very_many_channels(s: Sizes) -> bool:
    images = s.is_unstrided_conv and s.spec.ndim == 2 and s.spec.groups == 1
    return images and min(s.group_in, s.group_out) >= VERY_MANY


def _forward(name: str, serves: Callable[[Sizes], bool], program: Program) -> Formulation:
    return Formulation(name, serves, _cost, fprop=program, library=True)


def _weights(name: str, serves: Callable[[Sizes], bool], program: Program) -> Formulation:
    return Formulation(name, serves, _cost, wgrad=program, library=True)


FORMULATIONS = (
    _weights("exchanged", _swapped_wgrad, exchanged),
    _weights("exchanged_padded", lambda s: _swapped_wgrad(s) and s.padded_unevenly, exchanged_padded),
    _forward("reversed_kernel", lambda s: s.is_transposed and not s.swapped and s.spec.groups == 1, reversed_kernel),
    _forward("padded", lambda s: s.is_conv and s.padded_unevenly, padded),
    _forward("evened", lambda s: s.is_conv and s.can_pad_evenly, evened),
    _forward("extra_row", _very_many_channels, extra_row),
    _weights("polyphase_wgrad", lambda s: s.is_wgrad and s.is_polyphase, polyphase_wgrad),
)

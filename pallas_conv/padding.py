"""Padding: what callers write -> pairs of numbers, for convolutions and transposed ones; and padding that is not zeros."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax

from .spec import dilated

type Pairs = tuple[tuple[int, int], ...]

STRINGS = ("SAME", "SAME_LOWER", "VALID", "CAUSAL")
BORDERS = "pallas_conv_borders_"  # then the mode: the name of a copy in a program
MODES = {"ZEROS": "constant", "REFLECT": "reflect", "REPLICATE": "edge", "CIRCULAR": "wrap"}  # -> jnp.pad's name


def conv_pairs(
    padding: str | Pairs, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pairs:
    """The padding of a convolution. CAUSAL puts all of the window's reach on the left: output o sees inputs <= o * stride."""
    if not isinstance(padding, str):
        return padding
    window = [dilated(k, d) for k, d in zip(kernel, dilation, strict=True)]
    if padding == "CAUSAL":
        return tuple((n - 1, 0) for n in window)
    return tuple((int(low), int(high)) for low, high in lax.padtype_to_pads(size, window, stride, padding))


def transposed_pairs(
    padding: str | Pairs,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> Pairs:
    """The padding of the stride-dilated input of a transposed convolution, whose own padding is that of the convolution
    that it goes against: relationship 14 of https://arxiv.org/abs/1603.07285, and equinox's rule for SAME.
    """
    pairs = []
    low: int
    high: int
    for i, (k, s, d, a) in enumerate(zip(kernel, stride, dilation, output_padding, strict=True)):
        reach = d * (k - 1)
        if padding in ("SAME", "SAME_LOWER"):
            total = reach - s + a + 1
            a, total = max(0, -total), max(0, total)
            low = (total + (padding == "SAME_LOWER")) // 2
            high = total - low
        elif padding == "CAUSAL":
            low, high = 0, reach
        else:
            low, high = (0, 0) if isinstance(padding, str) else padding[i]
        pairs.append((reach - low, reach - high + a))
    return tuple(pairs)


def pad(x: Array, pairs: Pairs, mode: str) -> Array:
    """Pad the trailing spatial axes of a channels-first x by REFLECT, REPLICATE or CIRCULAR: a copy, as in stock.

    Neither TMA nor cuDNN reads so. The copy has a name of its own, by which `explain` finds it.
    """
    return _copy(mode)(x, ((0, 0),) * (x.ndim - len(pairs)) + tuple(pairs))


@functools.cache
def _copy(mode: str) -> Callable[[Array, Pairs], Array]:
    def copy(x: Array, widths: Pairs) -> Array:
        return jnp.pad(x, widths, MODES[mode])

    copy.__name__ = BORDERS + mode
    return jax.jit(copy, static_argnums=1)


def wrap_transposed(x: Array, pairs: Pairs, stride: Sequence[int]) -> tuple[Array, Pairs]:
    """CIRCULAR before a transposed convolution: whole strides wrap x, what is left pads its dilated image with zeros."""
    whole = tuple((low // s, high // s) for (low, high), s in zip(pairs, stride, strict=True))
    rest = tuple((low % s, high % s) for (low, high), s in zip(pairs, stride, strict=True))
    return pad(x, whole, "CIRCULAR"), rest

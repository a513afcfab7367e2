"""Arrays as TMA sees them: strided axes as two, whole 16 bytes, boxes that may lie outside of an array."""

import itertools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from . import mosaic as mgpu

ALIGNMENT = 16  # bytes of which every stride of a TMA descriptor is a multiple


def pad(a: Array, widths: list[tuple[int, int]]) -> Array:
    """The array padded with zeros, if there is anything to pad."""
    return jnp.pad(a, widths) if any(map(any, widths)) else a


def unaligned(channels: int, dtype: Any) -> int:
    """Number of channels that are missing to whole 16 bytes."""
    return -channels % (ALIGNMENT // dtype.itemsize)


def split_strides(sizes: Iterable[int], strides: list[int]) -> tuple[int, ...]:
    """(n,) -> (n / stride, stride) for every strided dimension: a box of every stride-th pixel is one of the first axis."""
    return sum(((n // s, s) if s > 1 else (n,) for n, s in zip(sizes, strides, strict=True)), ())


def interleave(rows: list[Any], remainders: list[tuple[Any, ...]]) -> list[Any]:
    """Indices of dimensions, some of which are split into quotient and remainder."""
    return [index for row, remainder in zip(rows, remainders, strict=True) for index in (row, *remainder)]


def reordered(w: Array, axis: int, order: tuple[int, ...]) -> Array:
    """w with its taps along an axis in this order.

    Slices, not a gather: a gather's indices would be a constant, which a partitioned call cannot close over.
    """
    taps = tuple(range(w.shape[axis]))
    if order == taps:
        return w
    if order == taps[::-1]:
        return jnp.flip(w, axis)
    return jnp.concatenate([lax.slice_in_dim(w, t, t + 1, axis=axis) for t in order], axis)


def lines(box: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """The first flat pixel, and the index, of every line of pixels in a box."""
    return [(i * box[-1], index) for i, index in enumerate(itertools.product(*map(range, box[:-1])))]


def box_at(
    first: list[Array],
    extents: tuple[int, ...],
    sizes: tuple[int, ...],
    past_end: tuple[int, ...],
    in_range: Any = True,
    one_image: bool = False,
) -> list[Any]:
    """Indices of a box at (image, *pixel) in an array of these sizes.

    A box that is not in range, or of no image, lies outside as a whole: there TMA reads zeros and writes nothing. Two rules of
    Mosaic shape the indices:

    1. It drops an axis, index and all, of which array and box have one: nothing can be outside along such an axis. So a box
       that is outside there, or as a whole, is moved outside along its longest axis, to `past_end`.
    2. It may fold integer indices into one. So an image that is an integer (one_image) stays inside, at 0.
    """
    in_range &= first[0] < sizes[0]
    for at, extent, size in zip(first, extents, sizes, strict=True):
        if extent == size == 1:
            in_range &= at == 0
    longest = max(range(len(extents)), key=extents.__getitem__)
    starts = [at + jnp.where(in_range, 0, past_end[i]) if i == longest else at for i, at in enumerate(first)]
    image, *pixel = [mgpu.ds(at, extent) for at, extent in zip(starts, extents, strict=True)]
    return [jnp.where(in_range, starts[0], 0) if one_image else image, *pixel]

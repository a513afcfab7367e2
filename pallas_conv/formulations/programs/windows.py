"""Padding, the window that each tap sees, and output phases: what the lax programs have in common."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ...spec import ConvSpec

WRITTEN_OUT = 8  # windows in one program; more become iterations of a loop, which compiles several times faster
MOST_PHASES = 32  # of an output, each with a loop or a sum of its own

type Slide = Callable[[Array, Array, ConvSpec], Array]


def pad_spatial(x: Array, padding: Sequence[tuple[int, int]]) -> Array:
    """(N, C, *in) -> zeros around it; negative padding crops."""
    if not any(map(any, padding)):
        return x
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 2 + [(low, high, 0) for low, high in padding])


def taps(spec: ConvSpec) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, spec.kernel_spatial))


def tap_windows(x: Array, spec: ConvSpec) -> Iterator[Array]:
    """The part of the already padded x that each tap multiplies: (N, C, *out)."""
    for tap in taps(spec):
        start = [i * d for i, d in zip(tap, spec.kernel_dilation, strict=True)]
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, spec.out_spatial, spec.strides, strict=True)]
        yield lax.slice(x, (0, 0, *start), (*x.shape[:2], *stop), (1, 1, *spec.strides))


def tap_window(x: Array, spec: ConvSpec, i: Array) -> Array:
    """The same for tap number i, for loops over many taps: written out one by one they would take seconds to compile."""
    start = [t * d for t, d in zip(unravel(i, spec.kernel_spatial), spec.kernel_dilation, strict=True)]
    span = [(n - 1) * s + 1 for n, s in zip(spec.out_spatial, spec.strides, strict=True)]
    window = lax.dynamic_slice(x, (0, 0, *start), (*x.shape[:2], *span))
    return lax.slice(window, (0,) * x.ndim, window.shape, (1, 1, *spec.strides))


def stacked_windows(x: Array, spec: ConvSpec, axis: int) -> Array:
    """(a, b, *in) -> (a, b, *out) for each tap, side by side along a new axis."""
    x, count = pad_spatial(x, spec.padding), math.prod(spec.kernel_spatial)
    if count <= WRITTEN_OUT:
        return jnp.stack(list(tap_windows(x, spec)), axis)
    x = lax.optimization_barrier(x)
    window = lambda i: jnp.expand_dims(tap_window(x, spec, i), axis)
    write = lambda i, columns: lax.dynamic_update_slice_in_dim(columns, window(i), i, axis)
    shape = (*x.shape[:axis], count, *x.shape[axis:2], *spec.out_spatial)
    return lax.fori_loop(0, count, write, made_of(x, shape, x.dtype))


def unravel(i: Array, grid: Sequence[int]) -> list[Array]:
    """The position in a grid of number i."""
    index = []
    for size in reversed(grid):
        index.append(i % size)
        i = i // size
    return index[::-1]


def phase_shape(spec: ConvSpec) -> tuple[int, ...]:
    """Extent of one output phase: every input_dilation-th element."""
    return tuple(math.ceil(n / u) for n, u in zip(spec.out_spatial, spec.input_dilation, strict=True))


def phases(spec: ConvSpec) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, spec.input_dilation))


def by_phases(slide: Slide, x: Array, w: Array, spec: ConvSpec) -> Array:
    """A transposed convolution as one without holes for every output phase, each with only the taps that meet data.

    Phase r holds the outputs o = r + u m. Tap t meets input (o + t - low) / u where that is whole: of a phase, every u-th
    tap from the first (https://arxiv.org/abs/1609.05158). Kernel dilation and strides are one.
    """
    rows, parts, one = phase_shape(spec), [], (1,) * spec.ndim
    for phase in phases(spec):
        geometry = list(zip(phase, spec.padding, spec.input_dilation, strict=True))
        first = [(low - r) % u for r, (low, _), u in geometry]
        part = w[(..., *(slice(f, None, u) for f, u in zip(first, spec.input_dilation, strict=True)))]
        low = [(low - r - f) // u for (r, (low, _), u), f in zip(geometry, first, strict=True)]
        extents = zip(low, rows, part.shape[2:], spec.in_spatial, strict=True)
        padding = tuple((lo, n + k - 1 - size - lo) for lo, n, k, size in extents)
        dense = ConvSpec(one, padding, one, one, spec.groups, spec.in_spatial, part.shape[2:])
        empty = jnp.zeros((x.shape[0], w.shape[0], *rows), x.dtype)
        parts.append(slide(x, part, dense) if math.prod(part.shape) else empty)
    return interleave(parts, spec)


def interleave(parts: Sequence[Array], spec: ConvSpec) -> Array:
    """Output phases, each (N, O, *phase_shape) -> (N, O, *out)."""
    n, up = spec.ndim, spec.input_dilation
    batch, channels, *rows = parts[0].shape
    y = jnp.stack(list(parts), 2).reshape(batch, channels, *up, *rows)
    y = y.transpose(0, 1, *(axis for i in range(n) for axis in (2 + n + i, 2 + i)))
    y = y.reshape(batch, channels, *(r * u for r, u in zip(rows, up, strict=True)))
    return lax.slice(y, (0,) * y.ndim, (batch, channels, *spec.out_spatial))


def made_of(x: Array, shape: Sequence[int], dtype: Any) -> Array:
    """The start of a loop that overwrites all of it: anything but a constant, which XLA would lay out at the start of the
    whole program, for every layer of a network at once."""
    return jnp.broadcast_to(x[(0,) * x.ndim].astype(dtype), shape)

"""Few channels a group: one fused loop of multiply-adds, no matrix product and no copy but the padding.

A depthwise product reads its operands once and has little arithmetic, so what counts is that XLA makes one vectorised loop of
it. The forward sum does that by itself if it is written as a sum over taps. The weight gradient is a reduction, which XLA may
not reorder and therefore runs one element at a time; cut into blocks of rows it becomes the same kind of loop as the forward:
sums over the rows of a block for each block, tap and column, of which few are left to reduce.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ..spec import ConvSpec
from .windows import made_of, pad_spatial, unravel

BLOCK = 16  # rows that one partial sum of a weight gradient covers
POSITIONS = 32  # about as many positions make one step of a weight gradient that loops over them
LANES = 8  # float32 elements of a vector
WRITTEN_OUT = (
    64  # products of rows in one program; with more, shifts become iterations of a loop, which compiles faster
)


def multiply_add(x: Array, w: Array, spec: ConvSpec) -> Array:
    """y = sum over taps and channels of a group of window * w[tap].

    Each row of taps has a sum of its own, so that they need not wait for one another. Two slices a term and no other change of
    shape: the length of the program is what takes the compiler's time.
    """
    groups, n, (o, d) = spec.groups, x.shape[0], w.shape[:2]
    x = lax.optimization_barrier(pad_spatial(x, spec.padding))  # else the loop asks of every tap whether it is padding
    x = x.reshape(n, groups, 1, d, *x.shape[2:])
    w = w.reshape(1, groups, o // groups, d, *spec.kernel_spatial)
    size = [(k - 1) * s + 1 for k, s in zip(spec.out_spatial, spec.strides, strict=True)]

    def term(channel: int, *tap: int) -> Array:
        start = [t * dilation for t, dilation in zip(tap, spec.kernel_dilation, strict=True)]
        stop = map(operator.add, start, size)
        window = lax.slice(
            x, (0, 0, 0, channel, *start), (n, groups, 1, channel + 1, *stop), (1, 1, 1, 1, *spec.strides)
        )
        weight = lax.slice(w, (0, 0, 0, channel, *tap), (*w.shape[:3], channel + 1, *(t + 1 for t in tap)))
        return window * weight

    *rows, last = (d, *spec.kernel_spatial)
    sums = (sum(term(*row, t) for t in range(last)) for row in itertools.product(*map(range, rows)))
    return jnp.asarray(sum(sums)).reshape(n, o, *spec.out_spatial)


def multiply_add_rows(x: Array, w: Array, spec: ConvSpec) -> Array:
    """The same with a loop over the channels of a group and the first dimension of the kernel: any kernel size, little code."""
    groups, n, (o, d) = spec.groups, x.shape[0], w.shape[:2]
    x = lax.optimization_barrier(pad_spatial(x, spec.padding))
    x, w = x.reshape(n, groups, d, *x.shape[2:]), w.reshape(groups, o // groups, *w.shape[1:])
    height = (spec.out_spatial[0] - 1) * spec.strides[0] + 1
    part = dataclasses.replace(
        spec,
        padding=((0, 0),) * spec.ndim,
        in_spatial=(height, *x.shape[4:]),
        kernel_spatial=(1, *spec.kernel_spatial[1:]),
    )

    def add(i: Array, y: Array) -> Array:
        row, channel = i // d, i % d
        of_x = lax.dynamic_slice_in_dim(x, channel, 1, 2)
        of_x = lax.dynamic_slice_in_dim(of_x, row * spec.kernel_dilation[0], height, 3)
        of_w = lax.dynamic_slice_in_dim(lax.dynamic_slice_in_dim(w, channel, 1, 2), row, 1, 3)
        of_x, of_w = of_x.reshape(n, groups, *part.in_spatial), of_w.reshape(o, 1, *part.kernel_spatial)
        return jnp.where(i > 0, y, 0) + multiply_add(of_x, of_w, part)

    return lax.fori_loop(0, spec.kernel_spatial[0] * d, add, made_of(x, (n, o, *spec.out_spatial), x.dtype))


def _whole_vectors(size: int) -> int:
    """The innermost extent of a loop, rounded up unless it is tiny: what is left over would be computed one by one."""
    return size if size < LANES // 2 else math.ceil(size / LANES) * LANES


def _pad_last(x: Array, spec: ConvSpec, room: int) -> Array:
    """The padding of the convolution and some more at the end, for results that are dropped."""
    *padding, (low, high) = spec.padding
    return lax.optimization_barrier(pad_spatial(x, (*padding, (low, high + room))))


def correlate_taps(x: Array, ct: Array, spec: ConvSpec) -> Array:
    """dw[tap] = sum over images and positions of window * ct, as a loop over positions: the cotangent slides over x.

    Taps are what is vectorised, each with a sum of its own, so this is for long rows of taps. A step adds what a few positions
    of a row give.
    """
    n, (c, o), groups = x.shape[0], (x.shape[1], ct.shape[1]), spec.groups
    *outer, size = spec.out_spatial
    blocks = math.ceil(size / POSITIONS)
    columns = size // blocks
    rows = max((r for r in range(1, POSITIONS // columns + 1) if outer and outer[-1] % r == 0), default=1)
    taps = (*spec.kernel_spatial[:-1], _whole_vectors(spec.kernel_spatial[-1]))
    x = _pad_last(x, spec, (taps[-1] - spec.kernel_spatial[-1]) * spec.kernel_dilation[-1])
    span = [(k - 1) * d + 1 for k, d in zip(taps, spec.kernel_dilation, strict=True)]

    def product(*position: Array) -> Array:
        start = [p * s for p, s in zip(position, spec.strides, strict=True)]
        window = lax.dynamic_slice(x, (0, 0, *start), (n, c, *span))
        window = lax.slice(window, (0,) * x.ndim, window.shape, (1, 1, *spec.kernel_dilation))
        g = lax.dynamic_slice(ct, (0, 0, *position), (n, o, *[1] * spec.ndim))
        window = window.reshape(n, groups, 1, c // groups, *taps)
        return window * g.reshape(n, groups, o // groups, 1, *[1] * spec.ndim)

    def run(dw: Array, first: int, blocks: int, columns: int) -> Array:
        """Adds the positions of these columns."""
        grid = (*outer[:-1], *(size // rows for size in outer[-1:]), blocks)

        def add(i: Array, dw: Array) -> Array:
            *position, block = unravel(i, grid)
            total: Array | float = 0.0
            for row, column in itertools.product(range(rows), range(columns)):
                at = [*position[:-1], *(p * rows + row for p in position[-1:]), first + block * columns + column]
                total += product(*at)
            return dw + total

        return lax.fori_loop(0, math.prod(grid), add, dw)

    dw = jnp.zeros((n, groups, o // groups, c // groups, *taps), x.dtype)
    dw = run(dw, 0, blocks, columns)
    if size % blocks:
        dw = run(dw, blocks * columns, 1, size % blocks)
    return dw.sum(0)[..., : spec.kernel_spatial[-1]].reshape(o, c // groups, *spec.kernel_spatial)


def correlate_rows(x: Array, ct: Array, spec: ConvSpec) -> Array:
    """dw[tap] = sum over images and positions of window * ct, by blocks of rows.

    Rows run along the last dimension but one; taps of the other dimensions are shifts of x, one loop each. In 1-D rows run
    along the only dimension and channels take the place of columns.
    """
    n, (c, o), groups = x.shape[0], (x.shape[1], ct.shape[1]), spec.groups
    d, m = c // groups, o // groups
    axis = max(0, spec.ndim - 2)
    x = _pad_to_blocks(x, spec, axis)
    x = x.reshape(n, groups, 1, d, *x.shape[2:])
    ct = ct.reshape(n, groups, m, *spec.out_spatial)
    if spec.ndim == 1:  # (n, 1, d, rows, groups) and (n, m, rows, groups)
        summed, x, ct = (0, 2), _row_major(jnp.moveaxis(x, 1, -1)), _row_major(jnp.moveaxis(ct, 1, -1))
    else:
        summed = (0, *range(3, 2 + spec.ndim), 3 + spec.ndim)
    x, ct = lax.optimization_barrier((x, ct))
    others = [i for i in range(spec.ndim) if i != axis]
    extents = [d, *(spec.kernel_spatial[i] for i in others)]
    looped = _looped(extents, rows_written_out(spec))
    channels = 3 if spec.ndim > 1 else 2
    rows = channels + axis  # where they are in ct, and in x without its axis of channels

    def shifted(x: Array, along: int, t: Array | int) -> Array:
        """What channel t meets, along 0, or tap t of another dimension."""
        if along == 0:
            return lax.dynamic_slice_in_dim(x, t, 1, channels)
        i = others[along - 1]
        length = (spec.out_spatial[i] - 1) * spec.strides[i] + 1
        x = lax.dynamic_slice_in_dim(x, t * spec.kernel_dilation[i], length, 4 + i)
        return lax.slice_in_dim(x, 0, length, spec.strides[i], 4 + i)

    def correlate(x: Array) -> Array:
        """(groups, m, taps along the rows); for 1-D (m, taps, groups)."""
        geometry = spec.kernel_spatial[axis], spec.strides[axis], spec.kernel_dilation[axis]
        sums = _row_sums(x.squeeze(channels), ct, rows, *geometry)
        return functools.reduce(operator.add, (s.sum(summed) for s in sums))

    def at(*first: Array) -> Array:
        """Of these channels and taps, and all shifts along the dimensions that are left."""
        part = x
        for along, t in enumerate(first):
            part = shifted(part, along, t)
        if first:  # copied: a fused loop that reads at an offset known only at run time is several times slower
            part = lax.optimization_barrier(part)
        results = []
        for shift in itertools.product(*map(range, extents[looped:])):
            window = part
            for along, tap in enumerate(shift, looped):
                window = shifted(window, along, tap)
            results.append(correlate(window))
        return jnp.stack(results)

    if looped:
        shifts = np.indices(extents[:looped]).reshape(looped, -1)
        dw = lax.map(lambda first: at(*first), tuple(jnp.asarray(s) for s in shifts))
    else:
        dw = at()
    if spec.ndim == 1:  # (d, m, taps, groups) -> (groups, m, d, taps)
        return dw.reshape(d, m, -1, groups).transpose(3, 1, 0, 2).reshape(o, d, *spec.kernel_spatial)
    dw = dw.reshape(d, *(spec.kernel_spatial[i] for i in others), groups, m, spec.kernel_spatial[axis])
    dw = jnp.moveaxis(dw, -1, 1 + axis)
    return jnp.moveaxis(dw, (-2, -1), (0, 1)).reshape(o, d, *spec.kernel_spatial)


def _row_major(x: Array) -> Array:
    """x with its last axis contiguous: XLA would call a transpose a layout and read with strides."""
    return lax.optimization_barrier(x.reshape(-1)).reshape(x.shape)


def _blocks(size: int, span: int, stride: int) -> tuple[int, int]:
    """Rows of a block, and how many whole blocks there are. The taps of a block reach at most into the next one."""
    least = max(BLOCK // 2, math.ceil(span / stride))
    if size <= 2 * max(BLOCK, least):
        return size, 0  # one block, which is the last
    even = [b for b in range(least, 2 * max(BLOCK, least) + 1) if size % b == 0]
    block = even[0] if even else max(BLOCK, least)
    return block, size // block


def shifts_written_out(spec: ConvSpec, channels: int) -> int:
    """How many shifts `correlate_rows` writes out, of this many channels a group."""
    extents = [channels, *(k for i, k in enumerate(spec.kernel_spatial) if i != max(0, spec.ndim - 2))]
    return math.prod(extents[_looped(extents, rows_written_out(spec)) :])


def _looped(extents: Sequence[int], rows: int) -> int:
    """How many of the first of these dimensions are looped over, so that the shifts along the others can be written out."""
    products = [math.prod(extents[i:]) * rows for i in range(len(extents))]
    return next((i for i, count in enumerate(products) if count <= WRITTEN_OUT), len(extents))


def rows_written_out(spec: ConvSpec) -> int:
    """How many products of rows `correlate_rows` writes out: those of a block and of what the blocks leave over."""
    axis = max(0, spec.ndim - 2)
    size, span = spec.out_spatial[axis], (spec.kernel_spatial[axis] - 1) * spec.kernel_dilation[axis] + 1
    block, whole = _blocks(size, span, spec.strides[axis])
    return block * (whole > 0) + size - whole * block


def _pad_to_blocks(x: Array, spec: ConvSpec, axis: int) -> Array:
    """The padding of the convolution, and room after it for the last block to be cut out whole; nothing meets that room."""
    stride, span = spec.strides[axis], (spec.kernel_spatial[axis] - 1) * spec.kernel_dilation[axis] + 1
    block, whole = _blocks(spec.out_spatial[axis], span, stride)
    room = (whole * block + block - 1) * stride - spec.in_spatial[axis] if whole else 0
    padding = list(spec.padding)
    padding[axis] = (padding[axis][0], max(padding[axis][1], room - padding[axis][0]))
    return pad_spatial(x, padding)


def _row_sums(x: Array, ct: Array, axis: int, kernel: int, stride: int, dilation: int) -> list[Array]:
    """sum over b of x[.., (h B + b) stride + t dilation, ..] * ct[.., h B + b, ..], with axes h and t in place of the rows.

    All blocks have B rows but the last, which is the second result: no row is filled up with zeros, which would meet elements
    of x that no tap meets.
    """
    size, span = ct.shape[axis], (kernel - 1) * dilation + 1
    block, whole = _blocks(size, span, stride)
    sums = []
    if whole:

        def window(b: int) -> Array:
            part = lax.slice_in_dim(x, b * stride, (b + whole * block) * stride, axis=axis)
            part = part.reshape(*x.shape[:axis], whole, block * stride, *x.shape[axis + 1 :])
            return lax.slice_in_dim(part, 0, span, dilation, axis + 1)

        sums.append(_block_sum(window, ct, axis, 0, whole, block))
    if size > whole * block:
        start = whole * block

        def window(b: int) -> Array:
            first = (start + b) * stride
            return jnp.expand_dims(lax.slice_in_dim(x, first, first + span, dilation, axis), axis)

        sums.append(_block_sum(window, ct, axis, start, 1, size - start))
    return sums


def _block_sum(window: Callable[[int], Array], ct: Array, axis: int, start: int, blocks: int, rows: int) -> Array:
    ct = lax.slice_in_dim(ct, start, start + blocks * rows, axis=axis)
    ct = ct.reshape(*ct.shape[:axis], blocks, rows, *ct.shape[axis + 1 :])
    total = sum(window(b) * lax.slice_in_dim(ct, b, b + 1, axis=axis + 1) for b in range(rows))
    return lax.optimization_barrier(total)  # a loop of its own: fused into the reduction it would not be vectorised

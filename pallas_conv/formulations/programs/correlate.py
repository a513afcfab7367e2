"""Few channels a group: a weight gradient as fused loops of multiply-adds, no matrix product and no copy but the padding.

It is a reduction, which XLA may not reorder and therefore runs one element at a time. Cut into blocks of rows it becomes the
same kind of loop as the forward sum in `multiply_add`: sums over the rows of a block for each block, tap and column, of which
few are left to reduce. These programs take `how` because all do: elements are multiplied in one way only.
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

from ...spec import ConvSpec, dilated
from ..formulation import Cost, Formulation, How
from ..sizes import Sizes
from .windows import pad_spatial, unravel

BLOCK = 16  # rows that one partial sum covers
POSITIONS = 32  # about as many make one step of a loop over positions
LANES = 8  # float32 elements of a vector
WRITTEN_OUT = 64  # products of rows in one program; more become iterations of a loop, which compiles faster
MOST_ROWS = 80  # of a block: taps far apart need long ones, which compile for seconds and run no faster
MOST_CHANNELS = 12  # of a group, in a loop over them


# ---------------------------------------------------------------- by positions


def correlate_taps(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
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


def _whole_vectors(size: int) -> int:
    """The innermost extent of a loop, rounded up unless it is tiny: what is left over would be computed one by one."""
    return size if size < LANES // 2 else math.ceil(size / LANES) * LANES


def _pad_last(x: Array, spec: ConvSpec, room: int) -> Array:
    """The padding of the convolution and some more at the end, for results that are dropped."""
    *padding, (low, high) = spec.padding
    return lax.optimization_barrier(pad_spatial(x, (*padding, (low, high + room))))


# ---------------------------------------------------------------- by blocks of rows


@dataclasses.dataclass(frozen=True)
class Rows:
    """The spatial dimension that rows run along, the last but one or the only one: its geometry and its blocks of rows."""

    dim: int
    outs: int
    taps: int
    stride: int
    dilation: int

    @classmethod
    def of(cls, spec: ConvSpec) -> "Rows":
        i = max(0, spec.ndim - 2)
        return cls(i, spec.out_spatial[i], spec.kernel_spatial[i], spec.strides[i], spec.kernel_dilation[i])

    @property
    def span(self) -> int:
        """Rows of x from the first to the last that the taps of one output meet."""
        return dilated(self.taps, self.dilation)

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows of a block, and how many whole blocks there are. The taps of a block reach at most into the next one."""
        least = max(BLOCK // 2, math.ceil(self.span / self.stride))
        if self.outs <= 2 * max(BLOCK, least):
            return self.outs, 0  # one block, which is the last
        even = [b for b in range(least, 2 * max(BLOCK, least) + 1) if self.outs % b == 0]
        block = even[0] if even else max(BLOCK, least)
        return block, self.outs // block

    @property
    def written_out(self) -> int:
        """Products of rows that are written out: those of a block and of what the blocks leave over."""
        block, whole = self.blocks
        return block * (whole > 0) + self.outs - whole * block


def correlate_rows(x: Array, ct: Array, spec: ConvSpec, how: How) -> Array:
    """dw[tap] = sum over images and positions of window * ct, by blocks of rows.

    Every channel of a group, and every tap of the other dimensions than that of the rows, is a shift of x with a loop of its
    own. The taps along the rows come out of one loop together.
    """
    return (_correlate_sequences if spec.ndim == 1 else _correlate_images)(x, ct, spec)


def _correlate_images(x: Array, ct: Array, spec: ConvSpec) -> Array:
    """The correlation in two or three dimensions. In one dimension there are no columns: see below.

    The axes of the arrays, with g groups, c and o channels of a group, and of three dimensions:

    x              n g 1 c depth row column     padded
    ct             n g o   depth row column
    x, one shift   n g 1   depth row column     depth and columns as in ct
    their sums     n g o   depth block tap column
    dw             c taps_of_others g o tap
    """
    (n, c, *_), o, groups, rows = x.shape, ct.shape[1], spec.groups, Rows.of(spec)
    c, o, others = c // groups, o // groups, _others(spec)
    x = _pad_to_blocks(x, spec)
    x = x.reshape(n, groups, 1, c, *x.shape[2:])
    ct = ct.reshape(n, groups, o, *spec.out_spatial)
    x, ct = lax.optimization_barrier((x, ct))
    summed = (0, *range(3, spec.ndim + 2), spec.ndim + 3)  # all axes of the sums but g, o and tap

    def shifted(x: Array, along: int, t: Array | int) -> Array:
        """The part of x that channel t meets, along 0, or that tap t of another dimension meets."""
        if along == 0:
            return lax.dynamic_slice_in_dim(x, t, 1, 3)
        i = others[along - 1]
        length = (spec.out_spatial[i] - 1) * spec.strides[i] + 1
        x = lax.dynamic_slice_in_dim(x, t * spec.kernel_dilation[i], length, 4 + i)
        return lax.slice_in_dim(x, 0, length, spec.strides[i], 4 + i)

    correlate = lambda x: _sum_of(_row_sums(x.squeeze(3), ct, 3 + rows.dim, rows), summed)
    dw = _for_every_shift(correlate, x, shifted, _shifts(spec, c), rows)
    dw = dw.reshape(c, *(spec.kernel_spatial[i] for i in others), groups, o, rows.taps)
    dw = jnp.moveaxis(dw, -1, 1 + rows.dim)
    return jnp.moveaxis(dw, (-2, -1), (0, 1)).reshape(groups * o, c, *spec.kernel_spatial)


def _correlate_sequences(x: Array, ct: Array, spec: ConvSpec) -> Array:
    """The correlation in one dimension. Rows are elements of a sequence. Vectors are filled with groups, instead of columns.

    x              n 1 c row g     padded
    ct             n o   row g
    x, one shift   n 1   row g
    their sums     n o   block tap g
    dw             c o tap g
    """
    (n, c, *_), o, groups, rows = x.shape, ct.shape[1], spec.groups, Rows.of(spec)
    c, o = c // groups, o // groups
    x = _pad_to_blocks(x, spec)
    x = x.reshape(n, groups, 1, c, *x.shape[2:])
    ct = ct.reshape(n, groups, o, *spec.out_spatial)
    x, ct = _row_major(jnp.moveaxis(x, 1, -1)), _row_major(jnp.moveaxis(ct, 1, -1))
    x, ct = lax.optimization_barrier((x, ct))
    of_channel = lambda x, along, t: lax.dynamic_slice_in_dim(x, t, 1, 2)
    correlate = lambda x: _sum_of(_row_sums(x.squeeze(2), ct, 2, rows), (0, 2))
    dw = _for_every_shift(correlate, x, of_channel, _shifts(spec, c), rows)
    dw = dw.reshape(c, o, rows.taps, groups)
    return dw.transpose(3, 1, 0, 2).reshape(groups * o, c, rows.taps)


def _others(spec: ConvSpec) -> list[int]:
    """The spatial dimensions but that of the rows."""
    return [i for i in range(spec.ndim) if i != Rows.of(spec).dim]


def _shifts(spec: ConvSpec, channels: int) -> list[int]:
    """Numbers of shifts of x: along its channels of a group, then along each of the other dimensions."""
    return [channels, *(spec.kernel_spatial[i] for i in _others(spec))]


def _looped(shifts: Sequence[int], rows: Rows) -> int:
    """Number of these dimensions, the first ones, to loop over so that shifts along the others can be written out."""
    products = [math.prod(shifts[i:]) * rows.written_out for i in range(len(shifts))]
    return next((i for i, count in enumerate(products) if count <= WRITTEN_OUT), len(shifts))


def _for_every_shift(
    correlate: Callable[[Array], Array],
    x: Array,
    shifted: Callable[[Array, int, Array | int], Array],
    shifts: Sequence[int],
    rows: Rows,
) -> Array:
    """correlate(x shifted) for every combination of shifts, by `shifted(x, along, t)`: before the axes of its result one axis
    for all combinations, or two if some are looped over.
    """
    looped = _looped(shifts, rows)

    def at(*first: Array) -> Array:
        """The results for these first shifts and all combinations of the others."""
        part = x
        for along, t in enumerate(first):
            part = shifted(part, along, t)
        if first:  # copied: a fused loop that reads at an offset known only at run time is several times slower
            part = lax.optimization_barrier(part)
        results = []
        for others in itertools.product(*map(range, shifts[looped:])):
            window = part
            for along, other in enumerate(others, looped):
                window = shifted(window, along, other)
            results.append(correlate(window))
        return jnp.stack(results)

    if not looped:
        return at()
    every = np.indices(shifts[:looped]).reshape(looped, -1)
    return lax.map(lambda first: at(*first), tuple(jnp.asarray(t) for t in every))


def _row_major(x: Array) -> Array:
    """x with its last axis contiguous: XLA would call a transpose a layout and read with strides."""
    return lax.optimization_barrier(x.reshape(-1)).reshape(x.shape)


def _pad_to_blocks(x: Array, spec: ConvSpec) -> Array:
    """The padding of the convolution, and room after it for the last block to be cut out whole; nothing meets that room."""
    rows = Rows.of(spec)
    block, whole = rows.blocks
    room = (whole * block + block - 1) * rows.stride - spec.in_spatial[rows.dim] if whole else 0
    padding = list(spec.padding)
    low, high = padding[rows.dim]
    padding[rows.dim] = (low, max(high, room - low))
    return pad_spatial(x, padding)


def _row_sums(x: Array, ct: Array, axis: int, rows: Rows) -> list[Array]:
    """(.., row of x, ..) and (.., row, ..) -> (.., block, tap, ..), where `axis` is the one of rows:

        sums[block, tap] = sum over b of x[(block * B + b) * stride + tap * dilation] * ct[block * B + b]

    All blocks have B rows but the last, which is the second result: no row is filled up with zeros, which would meet elements
    of x that no tap meets.
    """
    block, whole = rows.blocks
    start, sums = whole * block, []
    if whole:

        def of_every_block(b: int) -> Array:
            """The rows of x that the taps of row b of each whole block meet: (.., block, tap, ..)."""
            part = lax.slice_in_dim(x, b * rows.stride, (b + start) * rows.stride, axis=axis)
            part = part.reshape(*x.shape[:axis], whole, block * rows.stride, *x.shape[axis + 1 :])
            return lax.slice_in_dim(part, 0, rows.span, rows.dilation, axis + 1)

        sums.append(_block_sum(of_every_block, ct, axis, 0, whole, block))
    if rows.outs > start:

        def of_last_block(b: int) -> Array:
            """The same of row b of the last block: (.., 1, tap, ..)."""
            first = (start + b) * rows.stride
            return jnp.expand_dims(lax.slice_in_dim(x, first, first + rows.span, rows.dilation, axis), axis)

        sums.append(_block_sum(of_last_block, ct, axis, start, 1, rows.outs - start))
    return sums


def _block_sum(window: Callable[[int], Array], ct: Array, axis: int, start: int, blocks: int, rows: int) -> Array:
    """sum over b of window(b) * ct[row b of each block], for so many blocks of so many rows from row `start` of ct on."""
    ct = lax.slice_in_dim(ct, start, start + blocks * rows, axis=axis)
    ct = ct.reshape(*ct.shape[:axis], blocks, rows, *ct.shape[axis + 1 :])
    total = sum(window(b) * lax.slice_in_dim(ct, b, b + 1, axis=axis + 1) for b in range(rows))
    return lax.optimization_barrier(total)  # a loop of its own: fused into the reduction it would not be vectorised


def _sum_of(sums: Sequence[Array], axes: tuple[int, ...]) -> Array:
    """The total of these sums, each summed over these axes first."""
    return functools.reduce(operator.add, (s.sum(axes) for s in sums))


# ---------------------------------------------------------------- conditions and costs


def _few_channels(s: Sizes) -> bool:
    return s.is_wgrad and s.group_in <= MOST_CHANNELS


def _few_channels_short_blocks(s: Sizes) -> bool:
    return _few_channels(s) and Rows.of(s.spec).written_out <= MOST_ROWS


def _rows_cost(s: Sizes) -> Cost:
    """The cost: for each shift a channel of x and all of ct are read, and partial sums written and read."""
    rows = Rows.of(s.spec)
    extents = _shifts(s.spec, s.group_in)
    shifts, written_out = math.prod(extents), math.prod(extents[_looped(extents, rows) :])
    partial = s.y * rows.taps / min(BLOCK, rows.outs)
    moves = s.x + s.y if s.spec.ndim == 1 else 0.0
    cut_out = s.x / s.group_in if written_out < shifts else 0.0
    return Cost(
        s.useful_flops,
        shifts * (s.x / s.group_in + s.y + 2 * partial) + 2 * cut_out * shifts / written_out,
        written_out * rows.written_out,
        s.x + moves + cut_out + written_out * partial,
    )


def _taps_cost(s: Sizes) -> Cost:
    """Adds to all of dw, of each image, in every step over the positions of an image."""
    steps = math.ceil(s.out_pixels / min(POSITIONS, s.spec.out_spatial[-1]))
    return Cost(
        s.useful_flops,
        s.x * s.taps / s.spec.kernel_spatial[-1] + s.y + 2 * s.images * s.w * steps,
        POSITIONS,
        s.x + s.y + s.images * s.w,
    )


FORMULATIONS = (
    Formulation("correlate_rows", _few_channels_short_blocks, _rows_cost, wgrad=correlate_rows, loop=True, blocks=1),
    Formulation("correlate_taps", _few_channels, _taps_cost, wgrad=correlate_taps, loop=True, blocks=1),
)

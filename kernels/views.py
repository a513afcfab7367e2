"""Arrays as TMA sees them: strided axes as two, whole 16 bytes, boxes that may lie outside of an array.

Pixels and results are [N, *space, G, C], and [N, *space, C] of one group: XLA lays these out as its own convolutions' without a
reshape. Next to one, it computes cheap functions twice, relu say, to fuse them with the reshape, and has to keep what they are
computed from: a ResNet-50's training step then took a sixth more memory.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from . import mosaic as mgpu
from .geometry import TapAxis
from .scalars import floor_div

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


def of_several(groups: int, value: Any) -> tuple[Any, ...]:
    """A size or an index of the axis of groups, where there is one."""
    return (value,) if groups > 1 else ()


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


@dataclasses.dataclass(frozen=True)
class PixelBoxes:
    """Boxes of pixels of an array [N, *in, G, C], as taps read them: moved by a tap's distance, and of every stride-th pixel.

    images     N
    groups     G
    one_image  whether an integer picks the image of a box of one: TMA has five dimensions, and three spatial ones leave none
               for it
    """

    images: int
    dims: tuple[TapAxis, ...]
    groups: int
    one_image: bool
    interpret: bool

    @property
    def reach(self) -> list[int]:
        """Strides that a box may start before the array."""
        return [max(0, -min(o // d.in_stride for o in d.offset)) for d in self.dims]

    @property
    def lead(self) -> list[int]:
        """Strides of zeros before the array.

        On hardware a box reads zeros outside of it; the interpreter fills past the end only.
        """
        return self.reach if self.interpret else [0] * len(self.dims)

    def box(self, box: tuple[int, ...]) -> tuple[int, ...]:
        """(images, *pixels) as the axes of shared memory, without the images if an integer picks one."""
        return box[1:] if self.one_image else box

    def view(self, x: Array) -> Array:
        """[N, *in, G, C] -> [N, *(in / stride, stride), G, C]: a strided dimension becomes quotient and remainder.

        One group has no axis.
        """
        missing = [(lead * d.in_stride, -d.in_size % d.in_stride) for lead, d in zip(self.lead, self.dims, strict=True)]
        x = pad(x, [(0, 0), *missing, (0, 0), (0, unaligned(x.shape[-1], x.dtype))])
        space = split_strides(x.shape[1:-2], [d.in_stride for d in self.dims])
        return x.reshape(x.shape[0], *space, *of_several(self.groups, self.groups), x.shape[-1])

    def at(
        self,
        first: Sequence[Array],
        moves: Sequence[Array],
        extents: tuple[int, ...],
        group: Any,
        in_range: Any = True,
    ) -> tuple[Any, ...]:
        """Indices in the view of the box that a tap reads for the outputs from (image, *rows) on, at these distances.

        All but those of the channels.
        """
        quotients, remainders = [], []
        for move, d, lead in zip(moves, self.dims, self.lead, strict=True):
            quotient = floor_div(move, d.in_stride, min(d.offset))
            quotients.append(quotient + lead)
            remainders.append(() if d.in_stride == 1 else (move - quotient * d.in_stride,))
        image, *rows = first
        pixels = [row + quotient for row, quotient in zip(rows, quotients, strict=True)]
        sizes = (self.images, *(d.in_rows + lead for d, lead in zip(self.dims, self.lead, strict=True)))
        past_end = tuple(size + reach for size, reach in zip(sizes, (0, *self.reach), strict=True))
        images, *window = box_at([image, *pixels], extents, sizes, past_end, in_range, self.one_image)
        return (images, *interleave(window, remainders), *of_several(self.groups, group))


@dataclasses.dataclass(frozen=True)
class ResultBoxes:
    """Results [N, *out, G, O] whose outputs of a phase lie every out_stride-th: boxes of a phase have a dimension for it.

    images  N
    groups  G, of all parts if several are summed side by side
    """

    images: int
    dims: tuple[TapAxis, ...]
    groups: int
    channels: int
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in global memory: [N, *(rows, out_stride), G, O], whole phases, and O in whole 16 bytes.

        One group has no axis.
        """
        rows = split_strides([d.rows * d.out_stride for d in self.dims], [d.out_stride for d in self.dims])
        channels = self.channels + unaligned(self.channels, self.dtype)
        return (self.images, *rows, *of_several(self.groups, self.groups), channels)

    def whole(self, r: Array) -> Array:
        """[N, *out, G, O] -> shape."""
        space = [(0, d.rows * d.out_stride - d.out_size) for d in self.dims]
        r = r if self.groups > 1 else r.reshape(*r.shape[:-2], -1)
        groups = of_several(self.groups, (0, 0))
        return pad(r, [(0, 0), *space, *groups, (0, self.shape[-1] - self.channels)]).reshape(self.shape)

    def window(self, pixels: Sequence[Any], phase: Sequence[Any], group: Any) -> tuple[Any, ...]:
        """Indices of a box, (images, *rows) of a phase, but for channels."""
        images, *rows = pixels
        remainders = [(p,) if d.out_stride > 1 else () for d, p in zip(self.dims, phase, strict=True)]
        return (images, *interleave(rows, remainders), *of_several(self.groups, group))

    def result(self, out: Array) -> Array:
        """shape -> [N, *out, G O]."""
        groups = of_several(self.groups, self.groups)
        out = out.reshape(self.images, *(d.rows * d.out_stride for d in self.dims), *groups, out.shape[-1])
        out = out[(slice(None), *(slice(d.out_size) for d in self.dims), ..., slice(self.channels))]
        return out.reshape(*out.shape[:-2], -1) if groups else out

"""Geometry of a convolution as phases and taps, and boxes of pixels: pure Python, no JAX.

Every product of one spatial dimension is `out[o] += in[j] * w[t]` for all (o, t) with

    j * base == o * stride + t * dilation - low,      0 <= j < in_size,  0 <= t < kernel

where base is the input dilation: base 1 is a convolution, stride 1 a transposed one. Split o into phases,
o = q * out_stride + p: then j = q * in_stride + offset, and the taps of one phase are an arithmetic progression. Every
tap belongs to one phase at most, so the weights can be reordered once to put the taps of a phase side by side: a phase
is then a count, a first offset and a first position. No stuffed zero is ever multiplied.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

from pallas_conv.spec import Product


@dataclasses.dataclass(frozen=True)
class TapAxis:
    """A spatial dimension: tap i of phase p reads q * in_stride + offset[p] + i * tap_stride with w[order[first[p] + i]]."""

    in_size: int
    out_size: int
    in_stride: int
    out_stride: int
    tap_stride: int
    count: tuple[int, ...]
    offset: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def first(self) -> tuple[int, ...]:
        """Position of the first tap of every phase among the reordered taps."""
        return tuple(itertools.accumulate((0, *self.count)))[:-1]

    @property
    def rows(self) -> int:
        """Number of outputs of one phase. The last phases may have one less: the store clips it."""
        return -(-self.out_size // self.out_stride)

    @property
    def in_rows(self) -> int:
        """Number of inputs that have the same remainder modulo the stride."""
        return -(-self.in_size // self.in_stride)

    @property
    def residues(self) -> int:
        """Number of boxes that hold all inputs of a phase: one for each remainder modulo the stride that a tap reads."""
        return min(self.in_stride // math.gcd(self.in_stride, self.tap_stride), max(self.count))

    def box_of_tap(self, i: int) -> tuple[int, int]:
        """(box, row): the box that tap i reads, and how many rows further in it than the box's first tap.

        With a stride of 2 and three neighbouring taps there are two boxes, of even and of odd inputs. Taps 0 and 2 read the
        first one, tap 2 a row further; tap 1 reads the other.
        """
        return i % self.residues, i // self.residues * (self.residues * self.tap_stride // self.in_stride)

    def im2col(self) -> "TapAxis":
        """The axis of the same sums once the taps of its one phase are input channels, see `columns`."""
        if self.out_stride > 1:
            raise ValueError(f"{self.out_stride} output phases have different taps")
        return _pointwise(self.out_size)

    def col2im(self) -> "TapAxis":
        """The axis of every input times every tap once the taps are output channels. The taps are added later, see `shifts`."""
        if self.in_stride > 1:
            raise ValueError(f"a stride of {self.in_stride} would leave most products unused")
        return _pointwise(self.in_size)

    def columns(self) -> list[tuple[int, int, int]]:
        """(first, last, stride) of the inputs that each tap of the one phase reads, one for every output."""
        starts = [self.offset[0] + i * self.tap_stride for i in range(self.count[0])]
        return [(j, j + (self.out_size - 1) * self.in_stride + 1, self.in_stride) for j in starts]

    def shifts(self, p: int) -> list[tuple[int, int]]:
        """(tap, shift) of all taps of phase p of an unstrided input: output q reads input q + shift."""
        return [(self.first[p] + i, self.offset[p] + i * self.tap_stride) for i in range(self.count[p])]

    def span(self, p: int, low: int, high: int) -> tuple[int, int]:
        """Taps [first, last) of phase p that read any input for outputs q in [low, high]."""
        return self.taps_met(self.count[p], self.offset[p], low, high, _clip, _floor_div)

    def outputs_met(
        self, low: Any, high: Any, clip: Callable[..., Any], floor_div: Callable[..., Any]
    ) -> tuple[Any, Any]:
        """A range [first, last) that contains all outputs of the one phase for which a tap from `low` to `high` reads an input.

        It begins at the first output for which tap `high` does not read before the input, and ends at the last one for which
        tap `low` does not read past it. Between the two there may be outputs for which no tap reads any input.

        One formula for Python's numbers and traced ones, as `taps_met`.
        """
        least, most = self.offset[0], self.offset[0] + (self.count[0] - 1) * self.tap_stride
        lowest, highest = (self.offset[0] + tap * self.tap_stride for tap in (low, high))
        first = clip(-floor_div(highest, self.in_stride, least), 0, self.rows)
        last = clip(floor_div(self.in_size - 1 - lowest, self.in_stride, self.in_size - 1 - most) + 1, 0, self.rows)
        return first, last

    def outputs(self, low: int, high: int) -> tuple[int, int]:
        """`outputs_met` of Python's numbers."""
        return self.outputs_met(low, high, _clip, _floor_div)

    def taps_met(
        self, count: Any, offset: Any, low: Any, high: Any, clip: Callable[..., Any], floor_div: Callable[..., Any]
    ) -> tuple[Any, Any]:
        """The `span` of a phase with `count` taps and this offset: one formula for Python's numbers and traced ones.

        floor_div(value, by, least) is value // by, for a value that is at least `least`.
        """
        least = self.in_size - 1 - self.rows * self.in_stride - max(self.offset)
        before = floor_div(high * self.in_stride + offset, self.tap_stride, min(self.offset))
        first = clip(-before, 0, count)
        until = floor_div(self.in_size - 1 - low * self.in_stride - offset, self.tap_stride, least) + 1
        return first, clip(until, first, count)


def _clip(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def _floor_div(value: int, by: int, least: int) -> int:
    return value // by


def _pointwise(size: int) -> TapAxis:
    return TapAxis(size, size, in_stride=1, out_stride=1, tap_stride=1, count=(1,), offset=(0,), order=(0,))


@dataclasses.dataclass(frozen=True)
class ConvAxis:
    """The parameters that define a dimension, before it is split into phases."""

    in_size: int
    out_size: int
    kernel: int
    stride: int = 1
    base: int = 1
    dilation: int = 1
    low: int = 0
    flip: bool = False

    def transpose(self) -> "ConvAxis":
        """The dimension of this product's input gradient, and of the product whose input gradient this one is."""
        low = self.dilation * (self.kernel - 1) - self.low
        return ConvAxis(
            self.out_size, self.in_size, self.kernel, self.base, self.stride, self.dilation, low, not self.flip
        )

    def space_to_depth(self) -> "ConvAxis":
        """The dimension of the same sums once a stride is channels: tap a * stride + r + low becomes tap a of channel r.

        Neither x nor its taps may be dilated.
        """
        first, last = self.whole_stride_taps
        return ConvAxis(-(-self.in_size // self.stride), self.out_size, last - first + 1, low=-first)

    @property
    def whole_stride_taps(self) -> tuple[int, int]:
        """The distances, in whole strides, of the first and the last tap."""
        return -self.low // self.stride, (self.kernel - 1 - self.low) // self.stride

    def with_outputs_together(self, count: int) -> "ConvAxis":
        """The dimension once `count` neighbouring outputs are one: its taps are all that any of them reads.

        Neither x nor its taps may be dilated.
        """
        kernel = self.kernel + self.stride * (count - 1)
        return ConvAxis(self.in_size, self.out_size // count, kernel, self.stride * count, low=self.low)

    def dim(self) -> TapAxis:
        """The dimension, split into phases and taps."""
        phases = self.base // math.gcd(self.base, self.stride)
        count, offset, order = [], [], []
        for p in range(phases):
            moves = [divmod(p * self.stride + t * self.dilation - self.low, self.base) for t in range(self.kernel)]
            taps = [(t, q) for t, (q, rest) in enumerate(moves) if rest == 0]
            count.append(len(taps))
            offset.append(taps[0][1] if taps else 0)
            order += [self.kernel - 1 - t if self.flip else t for t, _ in taps]
        return TapAxis(
            in_size=self.in_size,
            out_size=self.out_size,
            in_stride=self.stride // math.gcd(self.base, self.stride),
            out_stride=phases,
            tap_stride=self.dilation // math.gcd(self.base, self.dilation),
            count=tuple(count),
            offset=tuple(offset),
            order=tuple(order),
        )


@functools.cache
def axes(product: Product) -> tuple[ConvAxis, ...]:
    """The parameters of every dimension of a product's convolution, whatever the product's role."""
    spec = product.spec
    return tuple(
        ConvAxis(in_size, out_size, kernel, stride, base, dilation, low)
        for in_size, out_size, kernel, stride, base, dilation, (low, _) in zip(
            spec.in_spatial,
            spec.out_spatial,
            spec.kernel_spatial,
            spec.strides,
            spec.input_dilation,
            spec.kernel_dilation,
            spec.padding,
            strict=True,
        )
    )


@functools.cache
def dims(product: Product) -> tuple[TapAxis, ...]:
    """The dimensions of a product as phases and taps. An input gradient has those of the transposed product.

    A weight gradient has those of the forward product: dw[t] is the sum of in[j] * ct[o] over the pairs that tap t joins.
    """
    if product.role not in ("fprop", "dgrad", "wgrad"):
        raise ValueError(f"{product.role=} must be 'fprop', 'dgrad' or 'wgrad'")
    return tuple((axis.transpose() if product.role == "dgrad" else axis).dim() for axis in axes(product))


@functools.cache
def boxes(pixels: int, nd: int) -> tuple[tuple[int, ...], ...]:
    """All power-of-two boxes of so many pixels over (images, *pixels)."""
    if nd == 0:
        return ((pixels,),)
    sizes = [1 << i for i in range(pixels.bit_length())]
    return tuple((size, *rest) for size in sizes for rest in boxes(pixels // size, nd - 1))

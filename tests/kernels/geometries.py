"""The multiply-adds of one spatial dimension, twice: by the definition, and by the phases and taps that kernels walk."""

from collections.abc import Iterator

from pallas_conv.kernels.geometry import ConvAxis, TapAxis


def definition(line: ConvAxis) -> Iterator[tuple[int, int, int]]:
    """(o, j, position in w) of every multiply-add, by the equation at the top of `geometry`."""
    for o in range(line.out_size):
        for t in range(line.kernel):
            j, rest = divmod(o * line.stride + t * line.dilation - line.low, line.base)
            if rest == 0 and 0 <= j < line.in_size:
                yield o, j, line.kernel - 1 - t if line.flip else t


def pairs(dim: TapAxis) -> Iterator[tuple[int, int, int]]:
    """(o, j, position in w) of every multiply-add that phases and taps visit."""
    for p in range(dim.out_stride):
        for q in range(-(-(dim.out_size - p) // dim.out_stride)):
            for i in range(dim.count[p]):
                j = q * dim.in_stride + dim.offset[p] + i * dim.tap_stride
                if 0 <= j < dim.in_size:
                    yield q * dim.out_stride + p, j, dim.order[dim.first[p] + i]

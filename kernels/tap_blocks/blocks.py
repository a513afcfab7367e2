"""Products of groups of few channels, divided into blocks of taps that the depthwise kernel takes."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from pallas_conv.spec import ConvSpec, Product, dilated

from .. import geometry
from ..depthwise import DEPTHWISE
from ..geometry import ConvAxis
from ..gpu import ANY_HOPPER
from .search import candidates

# Taps of a block, tried in turn: how many fit depends on all else that a thread keeps.
MOST_TAPS = (128, 96, 64, 48, 32, 16, 8, 4)
# Every launch has its own code, which takes seconds to compile, and passes over the sums once more.
MOST_LAUNCHES = 32


class Block(NamedTuple):
    """A block of taps: which they are in every dimension, and the product that has no others."""

    taps: tuple[slice, ...]
    product: Product


@functools.lru_cache(maxsize=1024)
def blocks(product: Product) -> tuple[Block, ...]:
    """The blocks of a product, as large as the depthwise kernel takes them; none if it takes none of `sizes`.

    Those of a forward product, and of an input gradient as the forward product that it is, add up: each has the sum so far as
    its residual, in float32, and the last one all that is fused. Those of a weight gradient lie side by side.

    Few launches are taken to be the fastest. Where their weights leave registers for one consumer only, more of them might be:
    that is unmeasured.
    """
    for most in sizes(product):
        found = divided(product, most)
        if any(DEPTHWISE.reasons(block.product) for block in found):
            continue
        if next(candidates(tuple(DEPTHWISE.problem(block.product) for block in found), ANY_HOPPER), None):
            return found
    return ()


def sizes(product: Product) -> list[int]:
    """The most taps of a block, largest first, as long as there are no more than MOST_LAUNCHES blocks."""
    return [most for most in MOST_TAPS if launches(product, most) <= MOST_LAUNCHES]


def launches(product: Product, most: int) -> int:
    """The number of blocks of at most so many taps."""
    return math.prod(map(len, _sides(product.spec.kernel_spatial, most)))


def divided(product: Product, most: int) -> tuple[Block, ...]:
    """The product as blocks of at most so many taps, whether or not a kernel takes them."""
    whole = as_forward(product) if product.role == "dgrad" else product
    axes = geometry.axes(whole)
    taken = [
        (taps, _with(whole, _some_taps(axes, taps)))
        for taps in itertools.product(*_sides(whole.spec.kernel_spatial, most))
    ]
    if product.role == "wgrad":
        first, *others = (Block(*block) for block in taken)
        return first, *(block._replace(product=dataclasses.replace(block.product, outputs=("dw",))) for block in others)
    # Where input dilation and stride have a common divisor, some taps only ever meet the zeros between elements.
    met = [block for block in taken if all(any(d.count) for d in geometry.dims(block[1]))] or taken[:1]
    last = len(met) - 1
    return tuple(
        Block(taps, _fused(part, residual=whole.residual or i > 0, last=i == last))
        for i, (taps, part) in enumerate(met)
    )


def _fused(part: Product, residual: bool, last: bool) -> Product:
    """The forward product of a block with what it adds to, and if it is the last one, with all that comes after the sum."""
    part = dataclasses.replace(part, out_dtype="float32", residual=residual)
    return part if last else dataclasses.replace(part, bias=False, activation=None, outputs=())


def as_forward(product: Product) -> Product:
    """An input gradient as the forward product of its cotangent and the flipped weights: that of a transposed convolution."""
    whole = dataclasses.replace(
        product, role="fprop", in_channels=product.out_channels, out_channels=product.in_channels, outputs=()
    )
    return _with(whole, [axis.transpose() for axis in geometry.axes(product)])


def _with(product: Product, axes: Sequence[ConvAxis]) -> Product:
    """The product with these dimensions."""
    spec = ConvSpec(
        strides=tuple(axis.stride for axis in axes),
        padding=tuple((axis.low, _high(axis)) for axis in axes),
        input_dilation=tuple(axis.base for axis in axes),
        kernel_dilation=tuple(axis.dilation for axis in axes),
        groups=product.spec.groups,
        in_spatial=tuple(axis.in_size for axis in axes),
        kernel_spatial=tuple(axis.kernel for axis in axes),
    )
    return dataclasses.replace(product, spec=spec)


def _high(axis: ConvAxis) -> int:
    """The padding after the input with which a dimension has as many outputs as it says."""
    read = (axis.out_size - 1) * axis.stride + dilated(axis.kernel, axis.dilation)
    return read - dilated(axis.in_size, axis.base) - axis.low


def _some_taps(axes: Sequence[ConvAxis], taps: Sequence[slice]) -> list[ConvAxis]:
    """The dimensions with these taps alone: the first one reads where it did."""
    return [
        dataclasses.replace(axis, kernel=some.stop - some.start, low=axis.low - some.start * axis.dilation)
        for axis, some in zip(axes, taps, strict=True)
    ]


def _sides(kernel: Sequence[int], most: int) -> list[list[slice]]:
    """The taps of blocks in every dimension: as many as may be along a row, then of rows, then of planes, alike in size."""
    found = list[list[slice]]()
    for taps in reversed(kernel):
        count = math.ceil(taps / max(1, min(most, taps)))
        side = math.ceil(taps / count)
        found.append([slice(first, min(first + side, taps)) for first in range(0, taps, side)])
        most //= side
    return found[::-1]

"""The ladder of depthwise products in blocks of taps, and the features that a case demands of its launches.

What the depthwise kernel does within a block is on its own ladder. Here are the ways in which blocks come together. Groups of
eight channels in float32 need eight registers a tap: so few taps make several blocks, which an interpreter likes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from pallas_conv.kernels.depthwise.plan import Config
from pallas_conv.kernels.tap_blocks.blocks import Block, blocks
from pallas_conv.spec import Product

from ..configured import Case, product
from .rung import Rung, held


@dataclasses.dataclass(frozen=True)
class Work:
    """A case as its launches."""

    case: Case

    @functools.cached_property
    def product(self) -> Product:
        return self.case.product

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        return blocks(self.product)

    def divided(self, axis: int) -> bool:
        """Whether taps are divided along an axis."""
        return len({block.taps[axis].start for block in self.blocks}) > 1


FEATURES: dict[str, Callable[[Work], bool]] = {
    "tap blocks: two launches": lambda w: True,
    "tap blocks: more launches": lambda w: len(w.blocks) > 2,
    "tap blocks: divided rows of taps": lambda w: w.divided(-1),
    "tap blocks: bias or activation": lambda w: w.product.bias or w.product.activation is not None,
    "tap blocks: two outputs": lambda w: w.product.outputs == ("y", "z"),
    "tap blocks: residual": lambda w: w.product.residual,
    "tap blocks: strides": lambda w: max(w.product.spec.strides) > 1,
    "tap blocks: input gradient": lambda w: w.product.role == "dgrad",
    "tap blocks: weight gradient": lambda w: w.product.role == "wgrad",
    "tap blocks: bias gradient": lambda w: "db" in w.product.outputs,
    "tap blocks: one channel a group": lambda w: w.product.spec.groups == w.product.in_channels,
    "tap blocks: three dimensions": lambda w: w.product.spec.ndim == 3,
    "tap blocks: results of 16 bits": lambda w: w.product.out_dtype != "float32",
    "tap blocks: models": lambda w: w.product.models is not None,
}


@functools.cache
def features(case: Case) -> tuple[str, ...]:
    """The features of a case, in the order of `FEATURES`; the last one is its rung."""
    return held(FEATURES, Work(case))


def _layer(
    role: str, size: Any, kernel: Any, padding: Any, dtype: str = "float32", group: int = 8, **more: Any
) -> Product:
    return product(role, 2, (16, 16), size, kernel, padding=padding, groups=16 // group, dtype=dtype, **more)


fprop, dgrad, wgrad = (functools.partial(_layer, role) for role in ("fprop", "dgrad", "wgrad"))
SMALL, DEEP, BOTH = Config((1, 1, 16), stages=4), Config((1, 1, 16), stages=8), ("dw", "db")

# fmt: off
LADDER: tuple[Rung, ...] = (
    Rung("tap blocks: two launches", (
        Case("tap blocks, 4x6 of groups of eight", fprop((6, 19), (4, 6), (1, 2)), SMALL, num_sms=2),
    )),
    Rung("tap blocks: more launches", (
        Case("tap blocks, 6x7, asymmetric padding", fprop((5, 11), (6, 7), ((4, 1), (2, 5))), SMALL, num_sms=2, extended=True),
    )),
    Rung("tap blocks: divided rows of taps", (
        Case("tap blocks, a row of 33 taps", fprop((2, 40), (1, 33), (0, 16)), SMALL, num_sms=2, extended=True),
    )),
    Rung("tap blocks: bias or activation", (
        Case("tap blocks, 4x6, bias, silu", fprop((6, 19), (4, 6), (1, 2), bias=True, activation="silu"), SMALL, num_sms=2,
             extended=True),
    )),
    Rung("tap blocks: two outputs", (
        Case("tap blocks, 4x6, bias, gelu, y and z", fprop((6, 9), (4, 6), (1, 2), bias=True, activation="gelu",
             outputs=("y", "z")), SMALL, num_sms=2, extended=True),
    )),
    Rung("tap blocks: residual", (
        Case("tap blocks, 4x6, bias, residual, relu", fprop((6, 9), (4, 6), (1, 2), bias=True, residual=True,
             activation="relu"), SMALL, num_sms=2),
    )),
    Rung("tap blocks: strides", (
        Case("tap blocks, 5x6 s2x3", fprop((9, 30), (5, 6), (2, 3), stride=(2, 3)), SMALL, num_sms=2, extended=True),
    )),
    Rung("tap blocks: input gradient", (
        Case("tap blocks dx, 4x6, asymmetric padding", dgrad((6, 13), (4, 6), ((3, 1), (0, 4))), SMALL, num_sms=2),
        Case("tap blocks dx, 5x6 s2, cropped", dgrad((9, 17), (5, 6), ((-1, 2), 2), stride=2), SMALL, num_sms=2, extended=True),
    )),
    Rung("tap blocks: weight gradient", (
        Case("tap blocks dw, 4x6", wgrad((6, 19), (4, 6), (1, 2)), SMALL, num_sms=2, extended=True),
        Case("tap blocks dw, 6x7 s2", wgrad((9, 17), (6, 7), (2, 3), stride=2), SMALL, num_sms=2, extended=True),
    )),
    Rung("tap blocks: bias gradient", (
        Case("tap blocks dw, 4x6, bias", wgrad((6, 9), (4, 6), (1, 2), outputs=BOTH), SMALL, num_sms=2),
    )),
    Rung("tap blocks: one channel a group", (
        Case("tap blocks, 13x11", fprop((9, 7), (13, 11), (6, 5), group=1), DEEP, num_sms=2, extended=True),
        Case("tap blocks dx, 13x11 s2", dgrad((15, 9), (13, 11), (6, 5), group=1, stride=2), SMALL, num_sms=2, extended=True),
    )),
    Rung("tap blocks: three dimensions", (
        Case("tap blocks, 3x3x4 of groups of eight", fprop((3, 4, 9), (3, 3, 4), (1, 1, 2)), SMALL, num_sms=2, extended=True),
    )),
    Rung("tap blocks: results of 16 bits", (
        Case("tap blocks, bfloat16, 13x11 s2, residual, relu", fprop((9, 17), (13, 11), (6, 5), "bfloat16", 1, stride=2,
             residual=True, activation="relu"), DEEP, num_sms=2, extended=True),
    )),
    Rung("tap blocks: models", (
        Case("tap blocks, two models of groups of eight, 4x6", fprop((6, 9), (4, 6), (1, 2), models=2), SMALL, num_sms=2,
             extended=True),
    )),
)
# fmt: on
CASES = tuple(case for rung in LADDER for case in rung.cases)

"""The ladder of whole backward passes of 1x1 convolutions, and the features that a case demands of their kernel."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from pallas_conv.kernels.pointwise.plan import CHUNK, Config, Problem, Tiling, tiling
from pallas_conv.spec import Product

from ..configured import Case, product
from .rung import Rung, held


@dataclasses.dataclass(frozen=True)
class Work:
    """A case as the kernel sees it."""

    case: Case

    @property
    def cfg(self) -> Config:
        found: Config = self.case.config
        return found

    @functools.cached_property
    def problem(self) -> Problem:
        return Problem.of(self.case.product)

    @functools.cached_property
    def tiling(self) -> Tiling:
        return tiling(self.problem, self.cfg)

    @property
    def steps(self) -> int:
        """Steps of the block that has most."""
        return -(-self.tiling.steps // self.cfg.split_k)

    @property
    def ragged(self) -> bool:
        """Whether a box ends beyond the pixels, or a block beyond the channels."""
        p = self.problem
        sizes = zip((p.batch, *(d.in_size for d in p.dims)), self.cfg.step_pixels, strict=True)
        return any(n % extent for n, extent in sizes) or bool(p.out_channels % CHUNK or p.in_channels % self.cfg.tile_n)


FEATURES: dict[str, Callable[[Work], bool]] = {
    "pointwise: one step": lambda w: True,
    "pointwise: several blocks": lambda w: w.tiling.blocks > 1,
    "pointwise: more blocks than SMs": lambda w: w.tiling.blocks > w.case.num_sms,
    "pointwise: slots used again": lambda w: w.steps * w.tiling.slots > w.cfg.stages,
    "pointwise: boxes over images": lambda w: w.cfg.step_pixels[0] > 1,
    "pointwise: ragged edges": lambda w: w.ragged,
    "pointwise: columns of blocks divided": lambda w: w.tiling.divided == "columns",
    "pointwise: rows of blocks divided": lambda w: w.tiling.divided == "rows",
    "pointwise: several blocks not divided": lambda w: w.tiling.divided == "pixels" and w.tiling.own_blocks > 1,
    "pointwise: rows and columns of blocks": lambda w: min(w.tiling.row_blocks, w.tiling.column_blocks) > 1,
    "pointwise: blocks of other input channels": lambda w: w.tiling.n_tiles > 1,
    "pointwise: bias gradient": lambda w: w.problem.bias,
    "pointwise: derivative": lambda w: w.problem.derivative is not None,
    "pointwise: wider result": lambda w: w.problem.out_itemsize > 2,
    "pointwise: another rank": lambda w: len(w.problem.dims) != 2,
    "pointwise: models": lambda w: w.problem.examples > 1,
}


@functools.cache
def features(case: Case) -> tuple[str, ...]:
    """The features of a case, in the order of `FEATURES`; the last one is its rung."""
    return held(FEATURES, Work(case))


ALL = ("dx", "dw", "db")


def bwd(batch: int, channels: tuple[int, int], size: tuple[int, ...], **more: Any) -> Product:
    """All gradients but that of a bias, unless it says otherwise, of a 1x1 convolution with (in, out) channels."""
    return product("bwd", batch, channels, size, 1, **{"outputs": ("dx", "dw")} | more)


BOX, IMAGES, LINE = (1, 8, 16), (2, 8, 8), (1, 128)

# fmt: off
LADDER: tuple[Rung, ...] = (
    Rung("pointwise: one step", (
        Case("1x1, one step", bwd(1, (64, 64), (8, 16)), Config(BOX), num_sms=1),
    )),
    Rung("pointwise: several blocks", (
        Case("1x1, three parts", bwd(3, (64, 64), (8, 16)), Config(BOX, split_k=3), num_sms=3),
    )),
    Rung("pointwise: more blocks than SMs", (
        Case("1x1, three parts on one SM", bwd(3, (64, 64), (8, 16)), Config(BOX, split_k=3), num_sms=1, extended=True),
    )),
    Rung("pointwise: slots used again", (
        Case("1x1, five steps, two slots", bwd(5, (64, 64), (8, 16)), Config(BOX), num_sms=1),
        Case("1x1, seven steps, three slots, two parts", bwd(7, (64, 64), (8, 16)), Config(BOX, stages=3, split_k=2), num_sms=2,
             extended=True),
    )),
    Rung("pointwise: boxes over images", (
        Case("1x1, two images a step", bwd(4, (64, 64), (8, 8)), Config(IMAGES), num_sms=1, extended=True),
        Case("1x1, 128 images a step", bwd(256, (64, 64), (1, 1)), Config((128, 1, 1)), num_sms=1, extended=True),
    )),
    Rung("pointwise: ragged edges", (
        Case("1x1, one image of two pixels", bwd(1, (24, 16), (1, 2)), Config((1, 1, 128)), num_sms=2, extended=True),
        Case("1x1, nine channels in, 24 out, 7x9 pixels", bwd(3, (9, 24), (7, 9)), Config(IMAGES, split_k=2), num_sms=2),
        Case("1x1, 40 channels in, one out", bwd(2, (40, 1), (9, 17)), Config(BOX, split_k=2), num_sms=2, extended=True),
    )),
    Rung("pointwise: columns of blocks divided", (
        Case("1x1, 128 channels in, 64 out", bwd(3, (128, 64), (8, 16)), Config(BOX, 128), num_sms=1),
        Case("1x1, 200 channels in, 40 out", bwd(3, (200, 40), (7, 9)), Config(IMAGES, 256, split_k=2),
             num_sms=2, extended=True),
    )),
    Rung("pointwise: rows of blocks divided", (
        Case("1x1, 64 channels in, 128 out", bwd(3, (64, 128), (8, 16)), Config(BOX), num_sms=1),
        Case("1x1, 24 channels in, 328 out, two slots for three", bwd(4, (24, 328), (7, 9)), Config(IMAGES), num_sms=2,
             extended=True),
        Case("1x1, 24 channels in, 232 out", bwd(4, (24, 232), (7, 9)), Config(IMAGES, split_k=2), num_sms=2, extended=True),
    )),
    Rung("pointwise: several blocks not divided", (
        Case("1x1, 136 channels in, 40 out", bwd(4, (136, 40), (7, 9)), Config(IMAGES, 192, split_k=2),
             num_sms=2, extended=True),
        Case("1x1, 40 channels in, 136 out", bwd(4, (40, 136), (7, 9)), Config(IMAGES, split_k=2), num_sms=2),
    )),
    Rung("pointwise: rows and columns of blocks", (
        Case("1x1, 128 channels in and out", bwd(3, (128, 128), (8, 16)), Config(BOX, 128), num_sms=1),
        Case("1x1, 72 channels in, 136 out", bwd(4, (72, 136), (7, 9)), Config(IMAGES, 128, stages=4),
             num_sms=2, extended=True),
        Case("1x1, 136 channels in, 72 out", bwd(4, (136, 72), (7, 9)), Config(IMAGES, 192), num_sms=2, extended=True),
    )),
    Rung("pointwise: blocks of other input channels", (
        Case("1x1, 72 channels in, 24 out, in two tiles", bwd(3, (72, 24), (8, 16)), Config(BOX, split_k=2), num_sms=2),
        Case("1x1, 136 channels in, 24 out, a block beyond them", bwd(4, (136, 24), (7, 9)), Config(IMAGES, 128, split_k=2),
             num_sms=2, extended=True),
        Case("1x1, 200 channels in, 72 out, in two tiles", bwd(4, (200, 72), (7, 9)), Config(IMAGES, 128, split_k=2), num_sms=4,
             extended=True),
    )),
    Rung("pointwise: bias gradient", (
        Case("1x1, bias gradient, three slots", bwd(6, (64, 64), (8, 16), outputs=ALL), Config(BOX, stages=3), num_sms=1,
             extended=True),
        Case("1x1, bias gradient, two tiles", bwd(3, (72, 24), (8, 16), outputs=ALL), Config(BOX, split_k=2), num_sms=2,
             extended=True),
        Case("1x1, bias gradient, 24 channels in, 72 out", bwd(5, (24, 72), (7, 9), outputs=ALL), Config(IMAGES, split_k=2),
             num_sms=2),
    )),
    Rung("pointwise: derivative", (
        Case("1x1, relu, without a bias gradient", bwd(3, (64, 64), (8, 16), activation="relu"), Config(BOX), num_sms=1),
        Case("1x1, gelu_tanh, 72 channels in, 24 out, in two tiles",
             bwd(3, (72, 24), (8, 16), outputs=ALL, activation="gelu_tanh"), Config(BOX, stages=4, split_k=2),
             num_sms=2, extended=True),
        Case("1x1, tanh, 136 channels in, 40 out", bwd(4, (136, 40), (7, 9), outputs=ALL, activation="tanh"),
             Config(IMAGES, 192), num_sms=2, extended=True),
        Case("1x1, silu, 24 channels in, 72 out", bwd(5, (24, 72), (7, 9), outputs=ALL, activation="silu"),
             Config(IMAGES, split_k=2), num_sms=2),
        Case("1x1, gelu, 72 channels in, 120 out", bwd(4, (72, 120), (7, 9), outputs=ALL, activation="gelu"),
             Config(IMAGES, 128, stages=3), num_sms=2, extended=True),
    )),
    Rung("pointwise: wider result", (
        Case("1x1, float32 result, sigmoid, float16",
             bwd(3, (40, 24), (8, 16), outputs=ALL, activation="sigmoid", dtype="float16", out_dtype="float32"),
             Config(BOX, split_k=2), num_sms=2),
    )),
    Rung("pointwise: another rank", (
        Case("1x1, 3-D, boxes over images", bwd(5, (24, 24), (2, 3, 4), outputs=ALL), Config((4, 2, 4, 4)), num_sms=2,
             extended=True),
        Case("1x1, one dimension, leaky_relu", bwd(2, (72, 24), (200,), outputs=ALL, activation="leaky_relu"),
             Config(LINE, 128, split_k=2), num_sms=2),
        Case("1x1, 3-D, images by an integer", bwd(3, (24, 72), (3, 4, 5), outputs=ALL, activation="relu"),
             Config((1, 2, 8, 8), split_k=2), num_sms=2, extended=True),
    )),
    Rung("pointwise: models", (
        Case("1x1, two models, two tiles, one image a step", bwd(3, (72, 40), (7, 9), models=2), Config((1, 8, 16), split_k=2),
             num_sms=2, extended=True),
        Case("1x1, three models, silu", bwd(2, (24, 72), (7, 9), outputs=ALL, activation="silu", models=3),
             Config(IMAGES), num_sms=2),
    )),
)
# fmt: on
CASES = tuple(case for rung in LADDER for case in rung.cases)

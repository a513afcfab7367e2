"""The ladder of the large-kernel depthwise family, and the features that a case demands of its kernel.

A feature is found in the case itself, not said of it, so that a case cannot stand lower on the ladder than it belongs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from pallas_conv.kernels.large_depthwise import work
from pallas_conv.kernels.large_depthwise.plan import CHANNELS, Config, Problem, Tiling, tiling
from pallas_conv.spec import Product

from ..configured import Case, product
from .rung import Rung, held


@dataclasses.dataclass(frozen=True)
class Work:
    """A case as the kernel sees it: its problem, its strips."""

    case: Case

    @functools.cached_property
    def problem(self) -> Problem:
        return Problem.of(self.case.product)

    @functools.cached_property
    def tiling(self) -> Tiling:
        return tiling(self.problem, self.case.config)

    @property
    def workers(self) -> int:
        return self.tiling.workers(self.case.num_sms)

    @property
    def chunks(self) -> int:
        """Slots of the ring that are filled, by all workers."""
        return work.loaded_chunks(self.tiling) * work.columns_of_strips(self.tiling)

    @property
    def ragged(self) -> bool:
        """Whether a strip ends beyond the outputs, or a block beyond the channels."""
        (rows, columns), cfg = self.problem.dims, self.tiling.cfg
        return any((self.problem.channels % CHANNELS, rows.out_size % cfg.strip_rows, columns.out_size % cfg.columns))


FEATURES: dict[str, Callable[[Work], bool]] = {
    "large depthwise: one strip": lambda w: True,
    "large depthwise: more strips than workers": lambda w: w.tiling.strips > w.workers,
    "large depthwise: slots used again": lambda w: w.chunks > w.tiling.cfg.stages * w.workers,
    "large depthwise: several blocks of channels": lambda w: w.problem.channel_blocks > 1,
    "large depthwise: several eights of rows a strip": lambda w: w.tiling.output_tiles > 1,
    "large depthwise: several strips down an image": lambda w: w.tiling.grid[1] > 1,
    "large depthwise: ragged edges": lambda w: w.ragged,
    "large depthwise: padding": lambda w: min(w.problem.first) < 0,
    "large depthwise: several steps along a row": lambda w: w.tiling.steps > 1,
    "large depthwise: several blocks of matrices": lambda w: w.tiling.blocks > 1,
    "large depthwise: sums that move up": lambda w: not (w.problem.weight_sums or w.tiling.resident),
    "large depthwise: chunks of padding alone": lambda w: w.tiling.rows_read(0).first > 0,
    "large depthwise: bias or activation": lambda w: w.case.product.bias or w.case.product.activation is not None,
    "large depthwise: two outputs": lambda w: len(w.case.product.outputs) > 1,
    "large depthwise: wider result": lambda w: w.problem.out_itemsize > 2,
    "large depthwise: input gradient": lambda w: w.case.product.role == "dgrad",
    "large depthwise: weight gradient": lambda w: w.problem.weight_sums,
    "large depthwise: input rows that come late": lambda w: w.tiling.rows_read(0).late > 0,
    "large depthwise: bias gradient": lambda w: w.problem.bias,
    "large depthwise: models": lambda w: w.case.product.models is not None,
    "large depthwise: float16": lambda w: w.case.product.compute_dtype == "float16",
}


@functools.cache
def features(case: Case) -> tuple[str, ...]:
    """The features of a case, in the order of `FEATURES`; the last one is its rung."""
    return held(FEATURES, Work(case))


def _layer(role: str, batch: int, channels: int, size: Any, kernel: Any, padding: Any = 0, **more: Any) -> Product:
    return product(role, batch, (channels, channels), size, kernel, 1, padding, groups=channels, **more)


fprop, dgrad, wgrad = (functools.partial(_layer, role) for role in ("fprop", "dgrad", "wgrad"))
ONE, BOTH = Config(16, 8), ("dw", "db")

# fmt: off
LADDER: tuple[Rung, ...] = (
    Rung("large depthwise: one strip", (
        Case("large depthwise, 10x10", fprop(1, 8, (17, 25), 10), ONE, num_sms=1),
    )),
    Rung("large depthwise: more strips than workers", (
        Case("large depthwise, 9x12, two images", fprop(2, 8, (16, 27), (9, 12)), Config(16, 8, 4), num_sms=1, extended=True),
    )),
    Rung("large depthwise: slots used again", (
        Case("large depthwise, 12x9, three images, two slots", fprop(3, 8, (19, 24), (12, 9)), Config(16, 8, 2), num_sms=1,
             extended=True),
    )),
    Rung("large depthwise: several blocks of channels", (
        Case("large depthwise, 11x11, 24 channels", fprop(2, 24, (18, 26), 11), Config(16, 8, 2), num_sms=3, extended=True),
    )),
    Rung("large depthwise: several eights of rows a strip", (
        Case("large depthwise, 17x7, 16 rows a strip", fprop(2, 16, (32, 22), (17, 7)), Config(16, 16, 2), num_sms=2,
             extended=True),
    )),
    Rung("large depthwise: several strips down an image", (
        Case("large depthwise, 25x4, 32 rows in two strips", fprop(1, 8, (56, 35), (25, 4)), Config(16, 16, 3), num_sms=2,
             extended=True),
    )),
    Rung("large depthwise: ragged edges", (
        Case("large depthwise, 13x9, odd sizes", fprop(2, 20, (25, 29), (13, 9)), Config(16, 16, 2), num_sms=2),
    )),
    Rung("large depthwise: padding", (
        Case("large depthwise, 27x5 of small images", fprop(3, 12, (7, 9), (27, 5), (13, 2)), ONE, num_sms=2),
        Case("large depthwise, 9x13, asymmetric padding, cropped", fprop(2, 12, (19, 37), (9, 13), ((3, -2), (7, 4))),
             Config(16, 8, 2), num_sms=2, extended=True),
        Case("large depthwise, 10x10, outputs that no pixel reaches", fprop(1, 8, (5, 9), 10, ((30, 21), (3, 40))),
             Config(16, 16), num_sms=2, extended=True),
    )),
    Rung("large depthwise: several steps along a row", (
        Case("large depthwise, 5x31", fprop(2, 12, (13, 35), (5, 31), (2, 15)), Config(16, 8, 2), num_sms=2, extended=True),
    )),
    Rung("large depthwise: several blocks of matrices", (
        Case("large depthwise, 17x33, 48 columns", fprop(1, 20, (13, 43), (17, 33), (8, 16)), Config(48, 16, 2), num_sms=3,
             extended=True),
        Case("large depthwise, 31x31", fprop(1, 8, (20, 33), 31, 15), Config(32, 24, 2), num_sms=1),
    )),
    Rung("large depthwise: sums that move up", (
        Case("large depthwise, 9x13, 24 rows a strip", fprop(1, 8, (32, 28), (9, 13)), Config(16, 24, 2), num_sms=1),
        Case("large depthwise, 9x13, two strips down, padding", fprop(2, 12, (41, 37), (9, 13), ((3, 4), (7, 4))),
             Config(32, 24, 2), num_sms=2, extended=True),
    )),
    Rung("large depthwise: chunks of padding alone", (
        Case("large depthwise, 10x10, sums that no pixel reaches", fprop(1, 8, (5, 9), 10, ((30, 21), (3, 40))),
             Config(16, 24), num_sms=2, extended=True),
        Case("large depthwise, 19x7, all rows a strip", fprop(2, 12, (35, 21), (19, 7), (9, 3)), Config(32, 40, 2), num_sms=2),
    )),
    Rung("large depthwise: bias or activation", (
        Case("large depthwise, 11x11, bias, silu", fprop(2, 20, (13, 35), 11, 5, bias=True, activation="silu"),
             Config(64, 16, 2), num_sms=3),
    )),
    Rung("large depthwise: two outputs", (
        Case("large depthwise, 13x13, bias, gelu, y and z",
             fprop(2, 12, (14, 14), 13, 6, bias=True, activation="gelu", outputs=("y", "z")), Config(32, 16, 2), num_sms=2),
    )),
    Rung("large depthwise: wider result", (
        Case("large depthwise, 10x11, float32 result, 12 channels",
             fprop(2, 12, (13, 35), (10, 11), 5, out_dtype="float32", bias=True, outputs=("z",)), Config(64, 8, 2), num_sms=2),
    )),
    Rung("large depthwise: input gradient", (
        Case("large depthwise dx, 31x31 of small images", dgrad(3, 8, (9, 11), 31, 15), Config(32, 16), num_sms=2,
             extended=True),
        Case("large depthwise dx, 12x17, asymmetric padding", dgrad(2, 20, (19, 37), (12, 17), ((3, 7), (9, 2))),
             Config(32, 16, 2), num_sms=2),
    )),
    Rung("large depthwise: weight gradient", (
        Case("large depthwise dw, 10x10", wgrad(1, 8, (17, 25), 10), ONE, num_sms=1),
        Case("large depthwise dw, 13x9, cropped", wgrad(2, 12, (29, 30), (13, 9), ((-3, 1), (2, -4))), Config(32, 16, 2),
             num_sms=2, extended=True),
    )),
    Rung("large depthwise: input rows that come late", (
        Case("large depthwise dw, 12x9, odd sizes, two strips down", wgrad(3, 20, (35, 43), (12, 9), (2, 5)),
             Config(32, 16, 2), num_sms=3, extended=True),
        Case("large depthwise dw, 5x45, two blocks of taps", wgrad(2, 12, (9, 50), (5, 45), (2, 22)), Config(32, 16, 2),
             num_sms=2, extended=True),
        Case("large depthwise dw, 31x31", wgrad(2, 12, (20, 33), 31, 15, out_dtype="float32"), Config(64, 24, 2), num_sms=2),
    )),
    Rung("large depthwise: bias gradient", (
        Case("large depthwise dw, 11x11, bias", wgrad(3, 20, (13, 35), 11, 5, outputs=BOTH), Config(32, 16, 2), num_sms=3),
        Case("large depthwise dw, 10x10, bias, cotangents that meet no pixel",
             wgrad(2, 8, (5, 9), 10, ((30, 21), (3, 40)), outputs=BOTH), Config(32, 16, 2), num_sms=2, extended=True),
    )),
    Rung("large depthwise: models", (
        Case("large depthwise, 11x11, three models of four channels", fprop(2, 4, (13, 20), 11, 5, bias=True, models=3),
             Config(32, 16, 2), num_sms=2),
        Case("large depthwise dw, 11x11, two models, bias", wgrad(2, 12, (13, 20), 11, 5, models=2, outputs=BOTH),
             Config(32, 16, 2), num_sms=2, extended=True),
    )),
    Rung("large depthwise: float16", (
        Case("large depthwise, float16, 11x11, bias, relu",
             fprop(2, 12, (13, 35), 11, 5, bias=True, activation="relu", dtype="float16"), Config(32, 16, 2), num_sms=2,
             extended=True),
        Case("large depthwise dw, float16, 9x15, bias",
             wgrad(2, 12, (13, 35), (9, 15), (4, 7), outputs=BOTH, dtype="float16"), Config(32, 16, 2), num_sms=2),
    )),
)
# fmt: on
CASES = tuple(case for rung in LADDER for case in rung.cases)

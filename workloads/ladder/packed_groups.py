"""The ladder of groups of few channels on one side, one by one or several as one, and the features that a case demands.

What the launched kernels do is on their own ladders. Here are the ways in which groups are packed before, and unpacked after.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from pallas_conv.kernels.dense.plan import Config as DenseConfig
from pallas_conv.kernels.packed_groups.plan import LAUNCHED, Config, packed
from pallas_conv.kernels.wgrad.plan import Config as WeightGradientConfig
from pallas_conv.spec import Product

from ..configured import Case, product
from .rung import Rung, held


@dataclasses.dataclass(frozen=True)
class Work:
    """A case with its packed product."""

    case: Case

    @property
    def product(self) -> Product:
        return self.case.product

    @property
    def count(self) -> int:
        count: int = self.case.config.count
        return count

    @functools.cached_property
    def packed(self) -> Product:
        return packed(self.product, self.count)

    @property
    def padded(self) -> bool:
        """Whether a packed group is filled up with zeros all the same."""
        groups, p = self.packed.spec.groups, self.packed
        whole = 4 if p.compute_dtype == "float32" and p.role != "wgrad" else 8  # channels, in sixteen bytes
        return any(channels // groups % whole for channels in (p.in_channels, p.out_channels))


FEATURES: dict[str, Callable[[Work], bool]] = {
    "packed groups: as they are": lambda w: True,
    "packed groups: several in one": lambda w: w.count > 1,
    "packed groups: several such": lambda w: w.count > 1 and w.packed.spec.groups > 1,
    "packed groups: zeros beside them": lambda w: w.padded,
    "packed groups: bias or activation": lambda w: w.product.bias or w.product.activation is not None,
    "packed groups: residual, two outputs": lambda w: w.product.residual and w.product.outputs == ("y", "z"),
    "packed groups: input gradient": lambda w: w.product.role == "dgrad",
    "packed groups: weight gradient": lambda w: w.product.role == "wgrad",
    "packed groups: bias gradient": lambda w: "db" in w.product.outputs,
    "packed groups: transposed": lambda w: max(w.product.spec.input_dilation) > 1,
    "packed groups: sums that XLA adds": lambda w: w.case.config.tile.finished_by_xla,
    "packed groups: three dimensions": lambda w: w.product.spec.ndim == 3,
    "packed groups: float32": lambda w: w.product.compute_dtype == "float32",
    "packed groups: models": lambda w: w.product.models is not None,
}


@functools.cache
def features(case: Case) -> tuple[str, ...]:
    """The features of a case, in the order of `FEATURES`; the last one is its rung."""
    return held(FEATURES, Work(case))


def layer(
    role: str, groups: int, channels: tuple[int, int], size: Any, kernel: Any, *args: Any, batch: int = 2, **more: Any
) -> Product:
    """A product of so many groups of so many channels in and out."""
    given, wanted = channels
    return product(role, batch, (groups * given, groups * wanted), size, kernel, *args, groups=groups, **more)


fprop, dgrad, wgrad = (functools.partial(layer, role) for role in ("fprop", "dgrad", "wgrad"))
BOX, BOTH = (1, 8, 8), ("dw", "db")


def dense(count: int, tile_n: int, tile_k: int = 16, box: tuple[int, ...] = BOX, **more: Any) -> Config:
    """A configuration: so many groups in one, and a tile of the dense kernel."""
    return Config(count, LAUNCHED["fprop"].name, DenseConfig(box, tile_n, tile_k, **{"stages": 2} | more))


def of_wgrad(count: int, tile_n: int = 16, box: tuple[int, ...] = BOX, **more: Any) -> Config:
    """A configuration: so many groups in one, and a tile of the weight-gradient kernel."""
    how = {"stages": 2, "dy_registers": tile_n < 64} | more
    return Config(count, LAUNCHED["wgrad"].name, WeightGradientConfig(box, tile_n, **how))


# fmt: off
LADDER: tuple[Rung, ...] = (
    Rung("packed groups: as they are", (
        Case("packed groups, eight in, sixteen out, one by one", fprop(3, (8, 16), (8, 9), 1), dense(1, 16), num_sms=2),
    )),
    Rung("packed groups: several in one", (
        Case("packed groups, a channel multiplier of twelve, all in one", fprop(8, (1, 12), (8, 9), 1), dense(8, 48), num_sms=2,
             extended=True),
    )),
    Rung("packed groups: several such", (
        Case("packed groups, a channel multiplier of ten, eight in one, 3x3", fprop(16, (1, 10), (7, 9), 3, 1, 1), dense(8, 80),
             num_sms=2, extended=True),
    )),
    Rung("packed groups: zeros beside them", (
        Case("packed groups, three in, nine out, one by one, 3x2 s2", fprop(2, (3, 9), (9, 8), (3, 2), 2, (1, 0)), dense(1, 16),
             num_sms=2, extended=True),
        Case("packed groups, ten in, three out, two in one", fprop(6, (10, 3), (7, 9), 3, 1, 1), dense(2, 16), num_sms=2,
             extended=True),
    )),
    Rung("packed groups: bias or activation", (
        Case("packed groups, two in, twelve out, eight in one, bias, silu",
             fprop(16, (2, 12), (7, 9), 3, 1, 1, bias=True, activation="silu"), dense(8, 96), num_sms=2),
    )),
    Rung("packed groups: residual, two outputs", (
        Case("packed groups, twelve in, four out, four in one, bias, residual, gelu, y and z",
             fprop(8, (12, 4), (5, 9), 3, 1, 1, bias=True, residual=True, activation="gelu", outputs=("y", "z")), dense(4, 16),
             num_sms=2, extended=True),
    )),
    Rung("packed groups: input gradient", (
        Case("packed groups dx, one in, ten out, s2, sixteen in one", dgrad(16, (1, 10), (9, 10), 3, 2, 1), dense(16, 16, 32),
             num_sms=2, extended=True),
        Case("packed groups dx, twelve in, four out, four in one, dilated",
             dgrad(8, (12, 4), (9, 11), (2, 3), 1, ((1, 0), 2), (1, 2)), dense(4, 48), num_sms=2),
        Case("packed groups dx, five in, nine out, three in one", dgrad(3, (5, 9), (7, 9), 3, 1, 1), dense(3, 16, 32),
             num_sms=2, extended=True),
    )),
    Rung("packed groups: weight gradient", (
        Case("packed groups dw, eight in, sixteen out, one by one", wgrad(2, (8, 16), (8, 8), 1), of_wgrad(1, 64), num_sms=2,
             extended=True),
        Case("packed groups dw, two in, twelve out, eight in one, halo", wgrad(16, (2, 12), (9, 11), 3, 1, 1),
             of_wgrad(8, halo=True), num_sms=2),
        Case("packed groups dw, nine in, two out, s2, five in one", wgrad(5, (9, 2), (9, 11), 3, 2, 1), of_wgrad(5, 64),
             num_sms=2, extended=True),
    )),
    Rung("packed groups: bias gradient", (
        Case("packed groups dw, three in, ten out, two in one, bias", wgrad(6, (3, 10), (7, 9), 3, 1, 1, outputs=BOTH),
             of_wgrad(2), num_sms=2, extended=True),
    )),
    Rung("packed groups: transposed", (
        Case("packed groups, one in, nine out, eight in one, transposed", fprop(8, (1, 9), (4, 5), 4, 1, 2, input_dilation=2),
             dense(8, 48), num_sms=2, extended=True),
        Case("packed groups dw, ten in, three out, three in one, transposed",
             wgrad(6, (10, 3), (4, 9), 3, 1, 1, input_dilation=2), of_wgrad(3, 64, transposed=True), num_sms=2, extended=True),
    )),
    Rung("packed groups: sums that XLA adds", (
        Case("packed groups, twenty in, eight out, bias, residual, relu, two in one and two parts",
             fprop(4, (20, 8), (7, 9), 3, 1, 1, bias=True, residual=True, activation="relu"), dense(2, 16, split_k=2),
             num_sms=2),
        Case("packed groups, twelve in, one out, four in one, taps as output channels, bias",
             fprop(8, (12, 1), (7, 9), 3, 1, 1, bias=True), dense(4, 48, col2im_dims=2), num_sms=2, extended=True),
        Case("packed groups dw, two in, twelve out, four in one, two parts, bias",
             wgrad(8, (2, 12), (7, 9), 3, 1, 1, outputs=BOTH), of_wgrad(4, split_k=2), num_sms=2, extended=True),
    )),
    Rung("packed groups: three dimensions", (
        Case("packed groups, 3-D, one in, nine out, eight in one", fprop(8, (1, 9), (3, 4, 5), (1, 3, 2), 1, (0, 1, 1)),
             dense(8, 48, box=(1, 1, 8, 8)), num_sms=2, extended=True),
    )),
    Rung("packed groups: float32", (
        Case("packed groups, float32, three in, twelve out, four in one, taps as channels",
             fprop(8, (3, 12), (5, 9), 3, 1, 1, dtype="float32"), dense(4, 48, im2col=True), num_sms=2, extended=True),
        Case("packed groups dw, float32, three in, twelve out, four in one",
             wgrad(8, (3, 12), (5, 9), 3, 1, 1, dtype="float32"), of_wgrad(4), num_sms=2, extended=True),
    )),
    Rung("packed groups: models", (
        Case("packed groups, two models, two in, ten out, four in one, bias",
             fprop(4, (2, 10), (5, 9), 3, 1, 1, bias=True, models=2), dense(4, 48), num_sms=2, extended=True),
        Case("packed groups dx, three models, ten in, two out, two in one", dgrad(4, (10, 2), (5, 9), 3, 1, 1, models=3),
             dense(2, 32), num_sms=2, extended=True),
        Case("packed groups dw, two models, two in, ten out, four in one, bias",
             wgrad(8, (2, 10), (5, 9), 3, 1, 1, models=2, outputs=BOTH), of_wgrad(4), num_sms=2),
    )),
)
# fmt: on
CASES = tuple(case for rung in LADDER for case in rung.cases)

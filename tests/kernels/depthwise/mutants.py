"""Cases whose depthwise kernel is broken on purpose, and ways to break it, for the interpreter and the emulator."""

import pytest

from pallas_conv.kernels.depthwise import tiling
from pallas_conv.kernels.depthwise.pixel_sums import PixelSums
from pallas_conv.kernels.depthwise.plan import Config
from pallas_conv.kernels.ring import Ring
from tests.kernels.cases import Case
from tests.kernels.depthwise.proving import depthwise

MUTANT = Case(
    "depthwise mutant",
    depthwise("fprop", 3, 40, (7, 17), 3, 1, 1),
    Config((1, 2, 16), 1, 2, channel_warpgroups=2, stages=5),
    num_sms=2,
)
FLIPPED = Case(
    "flipped depthwise mutant",
    depthwise("dgrad", 1, 8, (5, 9), (2, 3), 1, 1),
    Config((1, 2, 16), 2, 3),
    num_sms=2,
)
PHASES = Case(
    "depthwise mutant of phases",
    depthwise("dgrad", 1, 8, (5, 17), 3, 2, 1),
    Config((1, 1, 16), 1, 3),
    num_sms=2,
)
RESIDUAL = Case(
    "depthwise mutant with a residual",
    depthwise("fprop", 2, 8, (5, 17), 3, 1, 1, bias=True, residual=True),
    Config((1, 1, 16), 1, 3),
    num_sms=1,
)
CHANNELS = Case(
    "depthwise mutant of three blocks of channels",
    depthwise("fprop", 2, 72, (1, 16), (1, 2), 1, 0, bias=True),
    Config((1, 1, 16), stages=2),
    num_sms=2,
)
PLANES = Case(
    "depthwise mutant of two planes a tile",
    depthwise("fprop", 1, 8, (4, 2, 17), (2, 1, 1)),
    Config((2, 1, 16), stages=3),
    num_sms=1,
)
ADDS = Case(
    "depthwise mutant in float32",
    depthwise("fprop", 2, 40, (3, 17), 3, 1, 1, dtype="float32"),
    Config((1, 1, 16), 1, 2, column_warpgroups=2),
    num_sms=2,
)
WEIGHTS = Case(
    "depthwise mutant of a weight gradient",
    depthwise("wgrad", 3, 40, (7, 17), 3, 1, 1, outputs=("dw", "db")),
    Config((1, 2, 16), 1, 2, channel_warpgroups=2, stages=6),
    num_sms=2,
)
WEIGHTS_OF_PHASES = Case(
    "depthwise mutant of a transposed convolution's weight gradient",
    depthwise("wgrad", 2, 24, (4, 17), 4, 1, 1, input_dilation=2, outputs=("dw", "db")),
    Config((1, 2, 16), 1, 2, stages=6),
    num_sms=2,
)
WEIGHTS_HELD_BACK = Case(  # of so many fragments that loads are held back
    "depthwise mutant of a weight gradient of 5x5",
    depthwise("wgrad", 1, 24, (5, 9), 5, 1, 2),
    Config((1, 3, 16), 1, 2, stages=9),
    num_sms=1,
)
WEIGHTS_OF_COLUMNS = Case(
    "depthwise mutant of a weight gradient by two consumers of columns",
    depthwise("wgrad", 2, 24, (4, 5), (3, 2), 1, ((5, 1), (1, 20)), outputs=("dw", "db")),
    Config((1, 2, 16), 1, 3, column_warpgroups=2, stages=6),
    num_sms=2,
)
WEIGHT_ADDS = Case(
    "depthwise mutant of a weight gradient in float32",
    depthwise("wgrad", 2, 40, (3, 35), 3, 1, 1, dtype="float32"),
    Config((1, 1, 32), 1, 2, column_warpgroups=2),
    num_sms=2,
)
GROUPS = Case(
    "depthwise mutant of groups of two channels",
    depthwise("fprop", 2, 24, (3, 17), 3, 1, 1, group=2),
    Config((1, 2, 16), 1, 2, stages=6),
    num_sms=2,
)
WEIGHTS_OF_GROUPS = Case(
    "depthwise mutant of a weight gradient of groups of four channels",
    depthwise("wgrad", 2, 24, (3, 17), 3, 1, 1, group=4, outputs=("dw", "db")),
    Config((1, 2, 16), 1, 2, stages=6),
    num_sms=2,
)
ADDS_OF_GROUPS = Case(
    "depthwise mutant of groups of four channels in float32",
    depthwise("dgrad", 2, 24, (3, 17), 3, 1, 1, group=4, dtype="float32"),
    Config((1, 1, 16), 1, 2),
    num_sms=2,
)
WEIGHT_ADDS_OF_GROUPS = Case(
    "depthwise mutant of a weight gradient of groups of two channels in float32",
    depthwise("wgrad", 2, 24, (3, 17), 3, 1, 1, group=2, dtype="float32"),
    Config((1, 1, 16), 1, 2),
    num_sms=2,
)

BACKWARD = Case(
    "depthwise mutant of a whole backward pass",
    depthwise("bwd", 3, 40, (8, 17), (3, 4), 1, ((0, 2), (2, 1)), outputs=("dx", "dw", "db")),
    Config((1, 2, 16), 1, 2, channel_warpgroups=2, stages=5),
    num_sms=2,
)
BACKWARD_OF_GROUPS = Case(
    "depthwise mutant of a whole backward pass of groups of two channels",
    depthwise("bwd", 2, 24, (3, 17), 3, 1, 1, group=2, outputs=("dx", "dw")),
    Config((1, 2, 16), 1, 2, column_warpgroups=2, stages=6),
    num_sms=2,
)

DERIVATIVE = Case(
    "depthwise mutant of a backward pass with a derivative",
    depthwise("bwd", 3, 40, (8, 17), (3, 4), 1, ((0, 2), (2, 1)), outputs=("dx", "dw", "db"), activation="silu"),
    Config((1, 2, 16), 1, 2, channel_warpgroups=2, stages=5),
    num_sms=2,
)
DERIVATIVE_ADDS = Case(
    "depthwise mutant of a backward pass with a derivative in float32",
    depthwise("bwd", 2, 24, (3, 17), 3, 1, 1, dtype="float32", outputs=("dx", "dw", "db"), activation="silu"),
    Config((1, 1, 16), 1, 2, channel_warpgroups=2),
    num_sms=2,
)


def drop_a_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one of every row of them."""
    terms = tiling.row_terms
    fewer = lambda found: {at: {key: some[:-1] for key, some in into.items()} for at, into in found.items()}
    monkeypatch.setattr(tiling, "row_terms", lambda *args: fewer(terms(*args)))


def release_before_summing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer hands the first slot of a tile back before it reads it, and not again afterwards."""
    release, summed, early = Ring.release, PixelSums._sum, []

    def too_early(self, shared, staging, first, *rest):
        release(shared.ring, first)
        early.append(True)
        summed(self, shared, staging, first, *rest)

    monkeypatch.setattr(PixelSums, "_sum", too_early)
    monkeypatch.setattr(Ring, "release", lambda self, slot: early.pop() if early else release(self, slot))

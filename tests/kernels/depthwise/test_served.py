"""Products that the depthwise kernel serves, reasons against the others, and the names of things."""

import pytest

from pallas_conv.kernels import families, serve
from pallas_conv.kernels.depthwise import DEPTHWISE, served
from pallas_conv.kernels.depthwise.plan import Config
from pallas_conv.kernels.gpu import ANY_HOPPER
from tests.kernels import cases
from tests.kernels.depthwise.proving import depthwise

TILE = (1, 2, 16)
BOTH, ALL = ("dx", "dw"), ("dx", "dw", "db")


def product(role="fprop", batch=2, channels=64, size=(9, 20), kernel=3, **changes):
    return depthwise(role, batch, channels, size, kernel, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "bwd"}, "('dx', 'dw') and ('dx', 'dw', 'db') are computed, not ('dx',)"),
        ({"role": "bwd", "outputs": BOTH, "activation": "mish"}, "the derivative of mish is not fused"),
        (
            {"role": "bwd", "outputs": ALL, "padding": 3},
            "do not hold each cotangent once, which the bias gradient needs, in spatial dimensions [0, 1]",
        ),
        (
            {"role": "bwd", "outputs": ALL, "input_dilation": (2, 1)},
            "the bias gradient needs, in spatial dimensions [0]",
        ),
        (
            {"role": "bwd", "outputs": BOTH, "kernel": 7, "padding": 3},
            "no tile fits on an SM; of the smallest one, needed=",
        ),
        ({"role": "bwd", "outputs": BOTH, "size": (2, 9)}, "the cotangent is empty"),
        (
            {"role": "bwd", "outputs": BOTH, "kernel": 2, "input_dilation": 2, "stride": 2, "padding": 1},
            "some taps never meet",
        ),
        ({"role": "bwd", "outputs": BOTH, "batch": 2**20, "size": (64, 64), "channels": 8}, "x has more than"),
        ({"role": "bwd", "outputs": BOTH, "channels": 12, "models": 3}, "models of 12 channels would share"),
        ({"role": "wgrad", "outputs": ("dw", "db"), "activation": "relu"}, "the derivative of relu is not fused"),
        ({"role": "wgrad", "kernel": 2, "input_dilation": 2, "stride": 2, "padding": 1}, "some taps never meet"),
        ({"role": "wgrad", "size": (2, 9)}, "the cotangent is empty"),
        ({"role": "wgrad", "batch": 2**20, "size": (64, 64), "channels": 8}, "x has more than"),
        ({"role": "wgrad", "kernel": 11, "padding": 5}, "no tile fits on an SM; of the smallest one, needed="),
        ({"dtype": "float64"}, "bfloat16, float16, float32"),
        ({"out_dtype": "float16"}, "result must be"),
        ({"dtype": "float32", "out_dtype": "bfloat16"}, "result must be"),
        ({"activation": "mish"}, "not fused"),
        ({"size": (9, 9, 9, 9), "kernel": 2}, "1 to 3 spatial dimensions"),
        ({"kernel": (65, 1), "size": (70, 70)}, "64 a side"),
        ({"kernel": 12, "size": (20, 20)}, "in registers, at most 128, not 144"),
        ({"kernel": 1, "input_dilation": 2, "stride": 2, "padding": 1}, "no tap ever meets"),
        ({"batch": 0}, "x is empty"),
        ({"size": (2, 9)}, "y is empty"),
        ({"kernel": (3, 0)}, "w is empty"),
        ({"batch": 2**20, "size": (64, 64), "channels": 8}, "x has more than"),
        ({"size": (600,), "kernel": 2, "dilation": 300}, "at most 256 long"),
        (
            {"size": (400, 9), "kernel": (2, 1), "dilation": (300, 1)},
            "no tile fits on an SM; of the smallest one, cfg.stages",
        ),
        ({"channels": 12, "models": 3}, "models of 12 channels would share"),
        ({"channels": 12, "models": 3, "group": 4}, "models of 12 channels would share"),
        ({"channels": 9, "models": 3, "group": 3}, "models of 12 channels, zeros that fill groups up included, would"),
        ({"kernel": 5, "group": (1, 7), "dtype": "float32"}, "at most 128, not 200, of 25 taps and 8 channels"),
        ({"channels": 5 * 200_000, "group": 5, "size": (40, 34)}, "zeros that it is padded with included"),
        ({"kernel": 5, "group": 8, "dtype": "float32"}, "in registers, at most 128, not 200"),
    ],
)
def test_each_reason(changes, words):
    found = served.reasons(product(**changes))
    assert any(words in reason for reason in found), found


@pytest.mark.parametrize(
    "channels",
    [(64, 576, 64), (64, 64, 1), (8, 8, 1), (64, 64, 4), (72, 72, 8), (24, 36, 3)],
    ids=["many for one", "dense", "few channels", "large groups", "groups of nine", "eight and twelve"],
)
def test_groups_of_other_channels_are_refused_for_that_alone(channels):
    c, o, groups = channels
    found = served.reasons(cases.product("fprop", 2, (c, o), (9, 9, 9, 9), 3, groups=groups, dtype="float64"))
    assert len(found) == 1
    assert (
        "there must be groups, of at most 8 channels" in found[0]
        or "channels both in and out, or at most 8, not" in found[0]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "dgrad"},
        {"role": "dgrad", "stride": 2, "padding": 1},
        {"role": "wgrad"},
        {"role": "wgrad", "outputs": ("dw", "db"), "dtype": "float32", "precision": "highest"},
        {"role": "wgrad", "outputs": ("dw", "db"), "kernel": 7, "padding": 3, "out_dtype": "float32"},
        {"role": "wgrad", "outputs": ("dw", "db"), "input_dilation": 2, "channels": 12, "models": 3},
        {"role": "wgrad", "size": (4000,), "kernel": 64},
        {"role": "bwd", "outputs": ALL, "kernel": 5, "padding": 2},
        {"role": "bwd", "outputs": ALL, "stride": 2, "padding": 1},
        {"role": "bwd", "outputs": BOTH, "input_dilation": 2, "padding": 3},
        {"role": "bwd", "outputs": ALL, "size": (4000,), "kernel": 31, "padding": 15},
        {"role": "bwd", "outputs": ALL, "kernel": 5, "dtype": "float32", "precision": "highest"},
        {"role": "bwd", "outputs": ALL, "group": 4, "out_dtype": "float32"},
        {"role": "bwd", "outputs": ALL, "size": (9, 9, 9)},
        {"role": "bwd", "outputs": BOTH, "size": (9, 9, 9), "padding": 1, "batch": 1, "channels": 8},
        {"role": "bwd", "outputs": ALL, "activation": "silu"},
        {"dtype": "float32", "precision": "highest"},
        {"dtype": "float16"},
        {"out_dtype": "float32"},
        {"channels": 3},
        {"group": 2},
        {"group": 3, "channels": 63},
        {"group": (1, 2), "bias": True, "residual": True},
        {"group": (1, 8), "role": "dgrad", "stride": 2},
        {"group": (8, 5), "role": "wgrad", "outputs": ("dw", "db")},
        {"group": (2, 1), "role": "bwd", "outputs": ALL, "dtype": "float32"},
        {"group": 3, "channels": 24, "models": 2, "role": "bwd", "outputs": ALL, "activation": "silu"},
        {"group": 4, "role": "dgrad", "stride": 2},
        {"group": 8, "role": "wgrad", "outputs": ("dw", "db"), "kernel": 7, "padding": 3},
        {"group": 4, "kernel": 5, "dtype": "float32", "precision": "highest"},
        {"group": 8, "role": "wgrad", "dtype": "float32"},
        {"group": 8, "channels": 24, "models": 2, "bias": True},
        {"channels": 12, "models": 3, "dtype": "float32"},
        {"channels": 128, "size": (20, 20), "kernel": (9, 11)},
        {"channels": 128, "size": (400,), "kernel": 64, "bias": True},
        {"size": (60, 9), "kernel": (3, 1), "dilation": (20, 1)},
        {"models": 3},
        {"input_dilation": 2},
        {"kernel": (9, 11), "padding": (4, 5)},
        {"size": (4000,), "kernel": 64},
        {"size": (9, 9, 9), "kernel": 5},
        {"bias": True, "residual": True, "activation": "gelu", "outputs": ("y", "z")},
    ],
    ids=str,
)
def test_served(changes):
    p = product(**changes)
    assert served.reasons(p) == ()
    assert families.serving(p) is DEPTHWISE
    assert serve.choose(p) in DEPTHWISE.candidates(DEPTHWISE.problem(p), ANY_HOPPER)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "depthwise_fprop_2d_bf16_s1_linear"),
        ({"bias": True, "activation": "silu"}, "depthwise_fprop_2d_bf16_s1_bias_silu"),
        ({"stride": 2}, "depthwise_fprop_2d_bf16_s2_linear"),
        ({"role": "dgrad", "stride": (1, 2)}, "depthwise_dgrad_2d_bf16_s1u1x2_linear"),
        ({"out_dtype": "float32"}, "depthwise_fprop_2d_bf16f32_s1_linear"),
        ({"role": "wgrad", "stride": 2}, "depthwise_wgrad_2d_bf16_s2_linear"),
        ({"role": "wgrad", "outputs": ("dw", "db")}, "depthwise_wgrad_2d_bf16_s1_dwdb"),
        ({"group": (1, 2)}, "depthwise_fprop_2d_bf16_s1_filled_linear"),
        ({"group": 3, "channels": 63, "role": "dgrad"}, "depthwise_dgrad_2d_bf16_s1_grouped_filled_linear"),
        ({"role": "bwd", "outputs": ALL, "stride": 2}, "depthwise_bwd_2d_bf16_s1u2_dxdwdb"),
        ({"size": (9,), "dtype": "float32", "models": 2}, "depthwise_fprop_1d_f32_s1_models_linear"),
    ],
)
def test_names(changes, name):
    assert serve.kernel(product(**changes)).variant == name
    assert serve.kernel(product(**changes)).name == f"pallas_conv_{name}"


def words(config: Config, **changes) -> set[str]:
    return set(served.code_path(product(**changes), config).split())


PLAIN = {"2d", "bf16", "1x1wgs", "rows", "shared", "n2B"}


@pytest.mark.parametrize(
    ("config", "changes", "more"),
    [
        (Config(TILE, strip_tiles=2), {}, set()),
        (Config(TILE, strip_tiles=2), {"padding": 1}, {"padded"}),
        (Config(TILE, strip_tiles=2), {"stride": (1, 2)}, {"strided"}),
        (Config(TILE, strip_tiles=2), {"role": "dgrad", "stride": 2, "kernel": 4}, {"phased", "padded"}),
        (Config(TILE, strip_tiles=2), {"input_dilation": 4, "padding": 1, "kernel": 5}, {"phased"}),
        (Config(TILE, strip_tiles=2), {"kernel": (3, 9)}, {"batches"}),
        (Config((1, 2, 32), strip_tiles=2), {}, {"fragments"}),
        (Config(TILE, 2, strip_tiles=2), {}, {"chunks"}),
        (Config(TILE, strip_tiles=2), {"residual": True}, {"residual"}),
        (Config(TILE, strip_tiles=2), {"outputs": ("y", "z")}, {"outputs"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_words_of_a_code_path(config, changes, more):
    assert words(config, **changes) == PLAIN | more


def test_other_words_of_a_code_path():
    found = words(Config((2, 1, 16), channel_warpgroups=2), size=(9, 9, 9), dtype="float32")
    assert found == {"3d", "f32", "2x1wgs", "planes", "n4B"}
    found = words(Config(TILE, strip_tiles=2), input_dilation=3, kernel=2, padding=1)
    assert {"phased", "idle"} <= found
    found = words(Config(TILE, strip_tiles=2), role="wgrad", kernel=2, outputs=("dw", "db"))
    assert found == PLAIN - {"n2B"} | {"weights", "bias"}
    found = words(Config(TILE, strip_tiles=2, ctas_per_sm=2), role="bwd", kernel=2, outputs=ALL)
    assert found == PLAIN | {"weights", "bias", "padded"}
    found = words(Config(TILE, strip_tiles=2, channel_warpgroups=2), role="bwd", outputs=BOTH, activation="relu")
    assert found == PLAIN - {"1x1wgs"} | {"2x1wgs", "weights", "padded", "odd", "derivative"}
    assert words(Config(TILE), role="wgrad", dtype="float32") == {"2d", "f32", "1x1wgs", "rows", "weights", "odd"}


def test_the_epilogue():
    assert served.epilogue(product(), Config(TILE)) == "bf16 linear"
    assert served.epilogue(product(out_dtype="float32", bias=True, activation="relu"), Config(TILE)) == "f32 bias_relu"
    assert served.epilogue(product("wgrad", outputs=("dw", "db")), Config(TILE)) == "f32 linear"
    assert served.epilogue(product("bwd", outputs=ALL), Config(TILE)) == "bf16 linear"
    found = served.epilogue(product("bwd", outputs=BOTH, activation="silu", out_dtype="float32"), Config(TILE))
    assert found == "f32 derivative_silu"


def test_notes_of_copies():
    assert served.notes(product(), Config(TILE)) == ()
    told = served.notes(product(channels=20, size=(9, 21), stride=2, residual=True), Config(TILE))
    wanted = (
        "x is padded from 20 to 24",
        "whole strides in its last",
        "y is sliced from 24 to 20 channels, and the residual padded likewise",
    )
    assert [words in line for words, line in zip(wanted, told, strict=True)] == [True] * 3
    (told,) = served.notes(product("dgrad", size=(9, 20), stride=2, padding=1), Config(TILE))
    assert told == "the input gradient is sliced from whole output phases in spatial dimensions [0]"


def test_notes_of_groups_that_zeros_fill_up():
    told = served.notes(product(channels=20, group=(1, 3)), Config(TILE))
    assert told == (
        "x is padded from 1 to 4 channels a group",
        "y is sliced from 4 to 3 channels a group",
    )
    told = served.notes(product("bwd", channels=9, group=(3, 4), padding=1, outputs=BOTH), Config(TILE))
    wanted = (
        "the cotangent is padded from 12 to 16 channels",
        "x is padded from 3 to 4 channels a group",
        "x is padded to 16 channels, likewise",
        "the input gradient is sliced from 16 to 12 channels",
        "the input gradient is sliced from 4 to 3 channels a group",
        "partial sums",
    )
    assert [words in line for words, line in zip(wanted, told, strict=True)] == [True] * 6


def test_notes_of_what_lies_beside_what_is_padded():
    told = served.notes(product(channels=20, group=(1, 3), residual=True), Config(TILE))
    assert told[-1] == "y is sliced from 4 to 3 channels a group, and the residual padded likewise"
    p = product("bwd", channels=20, group=(1, 3), padding=1, outputs=ALL, activation="silu")
    told = served.notes(p, Config(TILE))
    assert told[0] == "the cotangent (and what the activation saved likewise) is padded from 3 to 4 channels a group"


def test_notes_of_a_weight_gradient():
    told = served.notes(product("wgrad", channels=20, size=(9, 21), input_dilation=2, padding=1), Config(TILE))
    wanted = (
        "x is padded from 20 to 24",
        "the cotangent is padded to 24 channels",
        "whole output phases",
        "partial sums",
    )
    assert [words in line for words, line in zip(wanted, told, strict=True)] == [True] * 4
    assert len(served.notes(product("wgrad"), Config(TILE))) == 1


def test_notes_of_a_whole_backward_pass():
    told = served.notes(product("bwd", channels=20, size=(9, 21), stride=2, padding=1, outputs=BOTH), Config(TILE))
    wanted = (
        "the cotangent is padded from 20 to 24",
        "x is padded to 24 channels",
        "x is padded to whole output phases",
        "the input gradient is sliced from 24 to 20",
        "the input gradient is sliced from whole output phases",
        "partial sums",
    )
    assert [words in line for words, line in zip(wanted, told, strict=True)] == [True] * 6
    assert len(served.notes(product("bwd", padding=1, outputs=BOTH), Config(TILE))) == 1


def test_the_size_of_a_whole_backward_pass():
    size = served.size(product("bwd", outputs=ALL))
    assert size.macs == 2 * 2 * 64 * 9 * 20 * 9
    assert (size.summed, size.produced, size.taps) == (1, 1, 9)
    assert size.nbytes == 2 * 2 * 64 * (2 * 9 * 20 + 7 * 18) + (2 + 4) * 64 * 9


def test_the_size_of_a_weight_gradient():
    size = served.size(product("wgrad", out_dtype="float32"))
    assert size.macs == 2 * 64 * 7 * 18 * 9
    assert (size.summed, size.produced, size.taps) == (2 * 7 * 18, 1, 9)
    assert size.nbytes == 2 * 2 * 64 * (9 * 20 + 7 * 18) + 4 * 64 * 9


@pytest.mark.parametrize(
    ("role", "pixels", "summed", "produced"),
    [("fprop", 7 * 18, 1, 3), ("dgrad", 9 * 20, 3, 1), ("wgrad", 7 * 18, 2 * 7 * 18, 3)],
)
def test_the_size_counts_no_zeros_that_fill_groups_up(role, pixels, summed, produced):
    size = served.size(product(role, channels=20, group=(1, 3)))
    assert size.macs == 2 * 20 * 3 * pixels * 9  # taps over padding count
    assert (size.summed, size.produced, size.taps) == (summed, produced, 9)
    assert size.nbytes == 2 * (2 * 20 * (9 * 20 + 3 * 7 * 18) + 20 * 3 * 9)


def test_the_size():
    size = served.size(product(models=2))
    assert size.macs == 2 * 2 * 64 * 7 * 18 * 9
    assert (size.summed, size.produced, size.taps) == (1, 1, 9)
    assert size.nbytes == 2 * (2 * 2 * 64 * (9 * 20 + 7 * 18) + 2 * 64 * 9)

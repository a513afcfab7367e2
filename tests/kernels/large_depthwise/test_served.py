"""Products that the large-kernel depthwise kernel serves, reasons against the others, and the names of things."""

import pytest

from pallas_conv.kernels import families, serve
from pallas_conv.kernels.depthwise import DEPTHWISE
from pallas_conv.kernels.gpu import ANY_HOPPER
from pallas_conv.kernels.large_depthwise import LARGE_DEPTHWISE, served
from pallas_conv.kernels.large_depthwise.plan import Config
from pallas_conv.kernels.tap_blocks import TAP_BLOCKS
from tests.kernels.large_depthwise.proving import large

BOTH = ("dw", "db")


def product(role="fprop", batch=2, channels=64, size=(19, 40), kernel=11, **changes):
    return large(role, batch, channels, size, kernel, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "bwd"}, "for large kernels there is no product 'bwd'"),
        ({"kernel": 9}, "at least 100 taps"),
        ({"kernel": 101, "size": (400,)}, "a large kernel has two dimensions"),
        ({"kernel": 5, "size": (9, 9, 9)}, "has two dimensions"),
        ({"dtype": "float32"}, "operands of 16 bits"),
        ({"stride": 2}, "without strides and dilations"),
        ({"dilation": (1, 2), "kernel": (30, 7), "padding": 15}, "without strides and dilations"),
        ({"input_dilation": 2}, "without strides and dilations"),
        *(
            (
                {"role": role, "stride": 2, "input_dilation": 2, "dilation": n, "padding": 5, "kernel": 12},
                "without strides",
            )
            for role in ("fprop", "dgrad", "wgrad")
            for n in (1, 2)
        ),
        ({"role": "dgrad", "stride": 2}, "without strides and dilations"),
        ({"residual": True}, "a residual is not fused with kernels so large"),
        ({"activation": "mish"}, "the activation 'mish' is not fused"),
        ({"role": "wgrad", "outputs": ("db",)}, "('dw',) and ('dw', 'db') are computed"),
        ({"kernel": 65, "padding": 32}, "the kernel must be at most 64 a side"),
        ({"size": (5, 40)}, "y is empty"),
        ({"role": "wgrad", "size": (5, 40)}, "the cotangent is empty"),
        ({"channels": 1 << 16, "batch": 64}, "elements"),
        ({"role": "wgrad", "kernel": 64, "padding": 32}, "no strip fits on an SM; of the smallest one, needed="),
    ],
    ids=str,
)
def test_reasons(changes, words):
    found = served.reasons(product(**changes))
    assert any(words in reason for reason in found), found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": True, "activation": "gelu", "outputs": ("y", "z")},
        {"role": "dgrad", "padding": 5},
        {"role": "wgrad", "outputs": BOTH},
        {"kernel": (51, 5), "padding": (25, 2)},
        {"kernel": (2, 64), "padding": (1, 32)},
        {"kernel": 64, "padding": 32},
        {"channels": 3, "models": 2},
        {"dtype": "float16", "out_dtype": "float32"},
    ],
    ids=str,
)
def test_served(changes):
    p = product(**changes)
    assert served.reasons(p) == ()
    assert families.serving(p) is LARGE_DEPTHWISE
    assert serve.choose(p) in LARGE_DEPTHWISE.candidates(LARGE_DEPTHWISE.problem(p), ANY_HOPPER)


def test_the_other_families_serve_what_they_can_of_the_rest():
    for changes in (
        {"kernel": 9},
        {"stride": 2},
        {"dtype": "float32"},
        {"residual": True},
        {"dilation": 3, "padding": 15},
    ):
        assert families.serving(product(**changes)) is DEPTHWISE
    for changes in ({"stride": 2}, {"dtype": "float32"}, {"residual": True}):
        assert families.serving(product(kernel=13, **changes)) is TAP_BLOCKS


def test_reasons_of_all_families_are_told():
    far_apart = product(batch=1, channels=8, kernel=31, dilation=100, size=(3100,) * 2)
    found, known = families.reasons(far_apart, (9, 0)), ("without strides", "at most 128, not 961", "no tile fits")
    assert [any(words in reason for reason in found) for words in known] == [True] * 3


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "large_depthwise_fprop_2d_bf16_s1_linear"),
        ({"bias": True, "activation": "silu"}, "large_depthwise_fprop_2d_bf16_s1_bias_silu"),
        ({"role": "wgrad", "outputs": BOTH}, "large_depthwise_wgrad_2d_bf16_s1_dwdb"),
        ({"role": "dgrad", "out_dtype": "float32", "models": 2}, "large_depthwise_dgrad_2d_bf16f32_s1_models_linear"),
    ],
)
def test_names(changes, name):
    assert serve.kernel(product(**changes)).variant == name


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (Config(32, 8), {}, "bf16 2blocks 1steps 1groups resident n2B"),
        (Config(64, 8), {"padding": 5}, "bf16 4blocks 1steps 1groups padded resident n2B"),
        (Config(64, 40), {"kernel": 31, "padding": 15}, "bf16 4blocks 2steps 5groups padded skipped n2B"),
        (Config(32, 24), {"outputs": ("y", "z"), "out_dtype": "float32"}, "bf16 2blocks 1steps 3groups n4B outputs"),
        (Config(64, 8), {"role": "wgrad", "outputs": BOTH}, "bf16 1blocks 4steps 2groups weights bias"),
    ],
    ids=str,
)
def test_code_paths(config, changes, words):
    assert served.code_path(product(**changes), config) == words


def test_the_epilogue():
    assert served.epilogue(product(bias=True, activation="relu", out_dtype="float32"), Config(32, 8)) == "f32 bias_relu"
    assert served.epilogue(product("wgrad", outputs=BOTH), Config(32, 8)) == "f32 linear"


def test_notes_of_copies():
    assert served.notes(product(), Config(32, 8)) == ()
    told = served.notes(product(channels=20), Config(32, 8))
    assert [line.split(":")[0] for line in told] == [
        "x is padded from 20 to 24 channels",
        "y is sliced from 24 to 20 channels",
    ]
    told = served.notes(product("wgrad", channels=20), Config(32, 8))
    wanted = "x is padded from 20 to 24", "the cotangent is padded likewise", "partial sums"
    assert [words in line for words, line in zip(wanted, told, strict=True)] == [True] * 3


def test_the_size():
    size = served.size(product(models=2))
    assert size.macs == 2 * 2 * 64 * 9 * 30 * 121
    assert (size.summed, size.produced, size.taps) == (1, 1, 121)
    assert size.nbytes == 2 * (2 * 2 * 64 * (19 * 40 + 9 * 30) + 2 * 64 * 121)
    size = served.size(product("wgrad", out_dtype="float32"))
    assert (size.summed, size.produced, size.taps) == (2 * 9 * 30, 1, 121)
    assert size.nbytes == 2 * 2 * 64 * (19 * 40 + 9 * 30) + 4 * 64 * 121

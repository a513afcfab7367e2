"""Products that the weight-gradient kernel serves, reasons against the others, and the names of things."""

import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.wgrad import served
from pallas_conv.kernels.wgrad.plan import Config
from tests.kernels import products

STEP = (1, 8, 8)


def product(**changes):
    return products.product(**{"role": "wgrad", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "dgrad"}, "no kernel for the product 'dgrad'"),
        ({"dtype": "float64"}, "bfloat16, float16, float32"),
        ({"dtype": "float32", "precision": "highest"}, "three bfloat16 products"),
        ({"dtype": "float32", "precision": "high"}, "three bfloat16 products"),
        ({"out_dtype": "float16"}, "result must be"),
        ({"dtype": "float32", "out_dtype": "bfloat16"}, "result must be"),
        ({"outputs": ("dw", "db"), "input_dilation": 2}, "not of a transposed one"),
        ({"outputs": ("db",)}, "without the derivative"),
        ({"outputs": ("dw", "db"), "dtype": "float32"}, "cotangents of 16 bits"),
        ({"activation": "relu"}, "without the derivative"),
        ({"size": (9, 9, 9, 9)}, "1 to 3 spatial dimensions"),
        ({"groups": 8}, "9 channels"),
        ({"kernel": 65, "size": (70, 70)}, "64 a side"),
        ({"stride": (2, 1), "input_dilation": (1, 2)}, "several phases"),
        ({"stride": 2, "input_dilation": 3}, "several phases"),
        ({"kernel": 1, "input_dilation": 2, "stride": 2, "padding": 1}, "taps never meet"),
        ({"batch": 0}, "x is empty"),
        ({"channels": (64, 0)}, "the cotangent is empty"),
        ({"size": (2, 9)}, "the cotangent is empty"),
        ({"kernel": (3, 0), "size": (9, 9)}, "w is empty"),
        ({"batch": 2**20, "channels": (3, 8), "size": (32, 32)}, "x has more than"),
        ({"batch": 2**16, "channels": (8, 64), "size": (26, 26)}, "the cotangent has more than"),
        ({"channels": (2**16, 2**15), "kernel": 1}, "w has more than"),
        ({"models": 4096, "channels": (256, 256)}, "w has more than"),
    ],
)
def test_each_reason(changes, words):
    found = served.reasons(product(**changes))
    assert any(words in reason for reason in found), found


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float32"},
        {"dtype": "float32", "precision": "tensorfloat32"},
        {"out_dtype": "float32"},
        {"outputs": ("dw", "db")},
        {"outputs": ("dw", "db"), "out_dtype": "float32"},
        {"stride": 2},
        {"input_dilation": (3, 2)},
        {"stride": 2, "input_dilation": 2, "dilation": 2},  # one phase of either
        {"channels": (1, 1)},
        {"groups": 4},
    ],
    ids=str,
)
def test_served(changes):
    assert served.reasons(product(**changes)) == ()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "wgrad_2d_bf16_s1_linear"),
        ({"stride": 2}, "wgrad_2d_bf16_s2_linear"),
        ({"stride": (1, 2), "dtype": "float16"}, "wgrad_2d_f16_s1x2_linear"),
        ({"out_dtype": "float32"}, "wgrad_2d_bf16f32_s1_linear"),
        ({"input_dilation": 2}, "wgrad_2d_bf16_u2_linear"),
        ({"dtype": "float32"}, "wgrad_2d_f32_s1_linear"),
        ({"size": (9, 9, 9), "groups": 2, "models": 3}, "wgrad_3d_bf16_s1_grouped_models_linear"),
    ],
)
def test_names(changes, name):
    assert serve.kernel(product(**changes)).variant == name
    assert serve.kernel(product(**changes)).name == f"pallas_conv_{name}"


def words(config: Config, **changes) -> set[str]:
    return set(served.code_path(product(**changes), config).split())


PLAIN = {"2d", "bf16", "1x1wgs", "64pixels", "n64"}


@pytest.mark.parametrize(
    ("config", "changes", "more"),
    [
        (Config(STEP), {}, set()),
        (Config(STEP), {"padding": 1}, {"padded"}),
        (Config(STEP), {"stride": 2}, {"strided"}),
        (Config(STEP), {"groups": 2}, {"grouped"}),
        (Config(STEP), {"models": 2}, {"examples"}),
        (Config(STEP, transposed=True), {"padding": 1}, {"transposed", "backwards", "padded"}),
        (Config(STEP, transposed=True), {"kernel": 1}, {"transposed"}),
        (Config((2, 4, 8)), {}, {"images"}),
        (Config(STEP, taps_per_tile=3), {}, {"taps"}),
        (Config(STEP, channel_loads=2), {"channels": (128, 64)}, {"channels"}),
        (Config(STEP, halo=True), {}, {"halo"}),
        (Config(STEP, dy_registers=True), {}, {"registers"}),
        (Config(STEP, dy_registers=True), {"outputs": ("dw", "db")}, {"registers", "bias"}),
        (Config(STEP, space_to_depth=True), {"stride": 2}, {"space_to_depth"}),
        (Config(STEP, row_outputs=2), {"size": (9, 10)}, {"rows", "strided"}),
        (Config(STEP, split_k=2), {}, {"split"}),
        (Config(STEP, multicast="x"), {"channels": (64, 128)}, {"multicast_x"}),
        (Config(STEP, multicast="dy"), {"channels": (128, 64)}, {"multicast_dy"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_words_of_a_code_path(config, changes, more):
    assert words(config, **changes) == PLAIN | more


def test_other_words_of_a_code_path():
    found = words(Config((1, 16, 8), 16, m_warpgroups=2, dy_registers=True), dtype="float32", size=(9, 9))
    assert found == {"2d", "f32", "2x1wgs", "128pixels", "n16", "registers"}


def test_the_epilogue_is_a_cast_or_none_of_parts():
    assert served.epilogue(product(), Config(STEP)) == "bf16 linear"
    assert served.epilogue(product(out_dtype="float32"), Config(STEP)) == "f32 linear"
    assert served.epilogue(product(), Config(STEP, split_k=2)) == "f32 linear"


def test_notes_of_copies():
    assert served.notes(product(), Config(STEP)) == ()
    told = served.notes(product(channels=(3, 20), stride=2), Config(STEP, 16, dy_registers=True, split_k=2))
    wanted = "x is padded from 3 to 8", "the cotangent is padded from 20 to 24", "whole strides in", "2 partial sums"
    assert [words in line for words, line in zip(wanted, told, strict=True)] == [True] * 4
    (told,) = served.notes(product(channels=(64, 20)), Config(STEP, transposed=True))
    assert told == "the cotangent is padded from 20 to 24 channels"
    (told,) = served.notes(product(channels=(20, 64)), Config(STEP, transposed=True))
    assert told == "x is padded from 20 to 24 channels"
    (told,) = served.notes(product(dtype="float32"), Config(STEP))
    assert "two bfloat16 each" in told


def test_notes_of_strides_and_outputs_made_channels():
    strided = product(channels=(8, 64), size=(9, 8), stride=2, padding=1)
    told = served.notes(strided, Config(STEP, space_to_depth=True))
    assert told == ("x is padded to whole strides in spatial dimensions [0]", "the strides of x are made channels")
    *_, told = served.notes(product(size=(9, 14)), Config(STEP, row_outputs=4))
    assert told == "XLA adds the sums of 4 neighbouring outputs of a row, in float32"
    told = served.notes(product(size=(9, 15), stride=2, padding=1), Config(STEP, space_to_depth=True, row_outputs=4))
    assert told[0] == "x is padded to whole strides in spatial dimensions [0, 1]"


def test_the_size_is_of_sums_over_pixels():
    size = served.size(product(models=2, groups=2))
    weights = 2 * 2 * 32 * 32 * 9
    assert size.macs == weights * 2 * 7 * 7
    assert size.summed == 2 * 7 * 7
    assert (size.produced, size.taps) == (32, 9)
    assert size.nbytes == 2 * (2 * 2 * 64 * (81 + 49) + weights)
    assert (
        served.size(product(input_dilation=2, size=(5, 5))).macs == 64 * 64 * 2 * 5 * 5 * 9
    )  # stuffed zeros do not count

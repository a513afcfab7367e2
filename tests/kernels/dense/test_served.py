"""Products that the dense kernel serves, reasons against the others, and the names of things."""

import pytest

from pallas_conv.kernels import families, serve
from pallas_conv.kernels.dense import served
from pallas_conv.kernels.dense.plan import Config
from pallas_conv.spec import OUTPUTS
from tests.kernels.products import product


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "wgrad"}, "no kernel for the product 'wgrad'"),
        ({"role": "bwd"}, "no kernel for the product 'bwd'"),
        ({"dtype": "float64"}, "bfloat16, float16, float32"),
        ({"dtype": "float32", "precision": "highest"}, "TF32"),
        ({"dtype": "float32", "precision": "high"}, "TF32"),
        ({"out_dtype": "float16"}, "result must be"),
        ({"size": (9, 9, 9, 9)}, "1 to 3 spatial dimensions"),
        ({"groups": 8}, "9 channels"),
        ({"kernel": 1, "input_dilation": 2, "stride": 2, "padding": 1}, "no tap"),
        ({"kernel": 65, "size": (70, 70)}, "64 a side"),
        ({"activation": "mish"}, "'mish'"),
        ({"outputs": ("z", "y")}, "outputs"),
        ({"role": "dgrad", "bias": True}, "epilogue"),
        ({"batch": 0}, "x is empty"),
        ({"size": (2, 9)}, "y is empty"),
        ({"batch": 2**20, "channels": (3, 8), "size": (32, 32)}, "elements"),
    ],
)
def test_each_reason(changes, words):
    found = served.reasons(product(**changes))
    assert any(words in reason for reason in found), found


@pytest.mark.parametrize("role", OUTPUTS)
@pytest.mark.parametrize("size", [(9, 9), (2, 9), (9, 9, 9, 9)])
def test_every_role_is_answered(role, size):
    """A reason that others have, such as a result that is empty, is told beside that of the role."""
    found, other = (served.reasons(product(role=it, size=size)) for it in (role, "fprop"))
    assert set(other) <= set(found)
    assert len(found) == len(other) + (role not in served.ROLES)
    if role != "wgrad":  # of which another family speaks
        assert families.reasons(product(role=role, size=size), (9, 0)) == found


@pytest.mark.parametrize("precision", [None, "default", "tensorfloat32"])
def test_float32_is_served_where_tf32_is_asked_for_or_allowed(precision):
    assert served.reasons(product(dtype="float32", precision=precision)) == ()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "dense_fprop_2d_bf16_s1_linear"),
        ({"stride": 2, "bias": True, "activation": "relu"}, "dense_fprop_2d_bf16_s2_bias_relu"),
        ({"stride": (1, 2), "dtype": "float16"}, "dense_fprop_2d_f16_s1x2_linear"),
        ({"out_dtype": "float32"}, "dense_fprop_2d_bf16f32_s1_linear"),
        ({"bias": True, "activation": "silu", "outputs": ("y", "z")}, "dense_fprop_2d_bf16_s1_bias_silu_yz"),
        ({"bias": True, "activation": "silu", "outputs": ("z",)}, "dense_fprop_2d_bf16_s1_bias"),
        ({"role": "dgrad", "input_dilation": 2}, "dense_dgrad_2d_bf16_s2_linear"),
        ({"role": "dgrad", "stride": 2}, "dense_dgrad_2d_bf16_s1u2_linear"),
        ({"dtype": "float32", "precision": "default"}, "dense_fprop_2d_f32_s1_linear"),
        ({"size": (9,), "input_dilation": 3, "stride": 2, "bias": True}, "dense_fprop_1d_bf16_s2u3_bias"),
        ({"size": (9, 9, 9), "groups": 2, "models": 3}, "dense_fprop_3d_bf16_s1_grouped_models_linear"),
    ],
)
def test_names(changes, name):
    assert serve.kernel(product(**changes)).variant == name
    assert serve.kernel(product(**changes)).name == f"pallas_conv_{name}"


def test_notes_of_copies():
    tile = Config((1, 8, 8))
    assert served.notes(product(), tile) == ()
    told = served.notes(product(channels=(3, 20), stride=2, out_dtype="float32"), tile)
    assert [next(word for word in ("channels", "strides") if word in line) for line in told] == ["channels", "strides"]
    assert "from 24 to 20" in served.notes(product(channels=(64, 20)), tile)[-1]
    assert "output phases in spatial dimensions [0, 1]" in served.notes(product(role="dgrad", stride=2), tile)[-1]
    assert "residual" in served.notes(product(channels=(64, 20), residual=True), tile)[-1]
    told = served.notes(product(channels=(3, 64)), Config((1, 8, 8), im2col=True))
    assert [word in line for word, line in zip(("3 taps", "from 9 to 16"), told, strict=True)] == [True, True]


def test_notes_of_parts():
    (told,) = served.notes(product(), Config((1, 8, 8), tile_k=32, split_k=2))
    assert "float32 sums of 2 parts" in told
    told = served.notes(product(channels=(64, 20)), Config((1, 8, 8), tile_k=32, split_k=2))
    assert len(told) == 1  # 20 floats are whole 16 bytes

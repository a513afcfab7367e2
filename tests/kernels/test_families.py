"""What is served, what is not and why, and what things are called."""

import subprocess
import sys

import pytest

from pallas_conv.kernels import config, support
from tests.kernels import cases
from workloads import ladder

BASE = {"role": "fprop", "batch": 2, "channels": (64, 64), "size": (9, 9), "kernel": 3}


def product(**changes):
    return cases.product(**{**BASE, **changes})


@pytest.mark.parametrize("case", ladder.CASES, ids=str)
def test_served_on_hopper_only(case):
    assert support.reasons(case.product, (9, 0)) == ()
    for capability in (None, (8, 0), (10, 0)):
        (reason,) = support.reasons(case.product, capability)
        assert "compute capability 9.0 (Hopper)" in reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "wgrad"}, "weight-gradient"),
        ({"dtype": "float64"}, "bfloat16, float16, float32"),
        ({"dtype": "float32", "precision": "highest"}, "TF32"),
        ({"dtype": "float32", "precision": "high"}, "TF32"),
        ({"out_dtype": "float16"}, "result must be"),
        ({"size": (9, 9, 9, 9)}, "1 to 3 spatial dimensions"),
        ({"groups": 8}, "16 channels"),
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
    found = support.reasons(product(**changes), (9, 0))
    assert any(words in reason for reason in found), found


@pytest.mark.parametrize("precision", [None, "default", "tensorfloat32"])
def test_float32_is_served_where_tf32_is_asked_for_or_allowed(precision):
    assert support.reasons(product(dtype="float32", precision=precision), (9, 0)) == ()


def test_all_reasons_are_listed():
    found = support.reasons(product(groups=8, kernel=65, size=(70, 70), dtype="float64", activation="mish"), None)
    assert len(found) == 5


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
    assert support.variant(product(**changes)) == name
    assert support.kernel_name(product(**changes)) == f"pallas_conv_{name}"


def test_copies():
    tile = config.Config((1, 8, 8))
    assert support.copies(product(), tile) == ()
    told = support.copies(product(channels=(3, 20), stride=2, out_dtype="float32"), tile)
    assert [next(word for word in ("channels", "strides") if word in line) for line in told] == ["channels", "strides"]
    assert "from 24 to 20" in support.copies(product(channels=(64, 20)), tile)[-1]
    assert "output phases in spatial dimensions [0, 1]" in support.copies(product(role="dgrad", stride=2), tile)[-1]
    assert "residual" in support.copies(product(channels=(64, 20), residual=True), tile)[-1]
    told = support.copies(product(channels=(3, 64)), config.Config((1, 8, 8), unfold=True))
    assert [word in line for word, line in zip(("3 taps", "from 9 to 16"), told, strict=True)] == [True, True]


def test_copies_of_parts():
    (told,) = support.copies(product(), config.Config((1, 8, 8), bk=32, split=2))
    assert "float32 sums of 2 parts" in told
    told = support.copies(product(channels=(64, 20)), config.Config((1, 8, 8), bk=32, split=2))
    assert len(told) == 1  # 20 floats are whole 16 bytes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"box": (1, 8, 4)}, "box"),
        ({"box": (1, 64)}, "box"),
        ({"bn": 24}, "bn"),
        ({"box": (1, 8, 16), "bn": 144}, "bn"),
        ({"bk": 128}, "bk"),
        ({"stages": 30}, "smem_bytes"),
        ({"stages": 33, "bn": 16, "bk": 16, "consumers": 1}, "stages"),
        (
            {
                "unfold": True,
                "problem": {"channels": (1, 64), "kernel": 31, "padding": 15, "batch": 64, "size": (1024, 1024)},
            },
            "unfolded",
        ),
        ({"split": 2}, "steps over 64 channels"),
        ({"split": 0}, "split"),
        ({"stages": 1}, "stages"),
        ({"halo": True, "box": (2, 8, 4)}, "one image"),
        ({"halo": True, "problem": {"stride": 3}}, "whole strides apart"),
        ({"halo": True, "problem": {"input_dilation": 2}}, "same number of taps"),
        (
            {
                "halo": True,
                "resident": True,
                "bn": 32,
                "bk": 16,
                "problem": {"channels": (16, 32), "size": (70, 70), "kernel": (41, 1)},
            },
            "registers",
        ),
        ({"consumers": 3}, "consumers"),
        ({"resident": True, "problem": {"channels": (64, 80)}}, "output channels"),
        ({"resident": True, "problem": {"groups": 2}}, "one group"),
        ({"resident": True, "split": 2, "bk": 32}, "one part"),
        ({"resident": True, "taps": 2, "bk": 16}, "one tap"),
        ({"resident": True, "cluster": 2}, "no cluster"),
        ({"taps": 0}, "taps"),
        ({"out_bufs": 17, "bn": 16, "problem": {"residual": True}}, "barriers"),
        ({"unfold": True, "problem": {"role": "dgrad", "stride": 2}}, "one output phase"),
        ({"fold": 3}, "of 2"),
        ({"fold": 1, "problem": {"stride": 2}}, "without a stride"),
        ({"fold": 1, "split": 2}, "split"),
        ({"fold": 2, "unfold": True}, "unfold"),
        ({"fold": 2, "problem": {"batch": 2**16, "size": (32, 32)}}, "sums"),
        ({"box": (2, 1, 4, 8), "problem": {"size": (9, 9, 9), "stride": 2}}, "one image"),
        ({"box": (2, 1, 4, 8), "split": 2, "bk": 32, "problem": {"size": (9, 9, 9)}}, "one image"),
    ],
)
def test_illegal_configurations_say_why(changes, words):
    problem = config.Problem.of(product(**changes.pop("problem", {})))
    cfg = config.Config(**{"box": (1, 8, 8), "bn": 64, **changes})
    assert words in config.illegal(problem, cfg)


def test_importing_the_room_imports_no_pallas():
    modules = "pallas_conv.kernels.support, pallas_conv.kernels.config"
    script = f"import sys, {modules}; print('jax.experimental.pallas' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

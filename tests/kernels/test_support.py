"""What is served, what is not and why, and what things are called."""

import subprocess
import sys

import pytest

from pallas_conv.kernels import config, support
from tests.kernels import cases

BASE = {"role": "fprop", "batch": 2, "channels": (64, 64), "size": (9, 9), "kernel": 3}


def product(**changes):
    return cases.product(**{**BASE, **changes})


@pytest.mark.parametrize("case", cases.small(), ids=str)
def test_served_on_hopper_only(case):
    assert support.reasons(case.product, (9, 0)) == ()
    for capability in (None, (8, 0), (10, 0)):
        (reason,) = support.reasons(case.product, capability)
        assert "compute capability 9.0 (Hopper)" in reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "wgrad"}, "weight-gradient"),
        ({"dtype": "float32"}, "bfloat16 or float16"),
        ({"out_dtype": "float16"}, "result must be"),
        ({"size": (9,)}, "2 spatial dimensions"),
        ({"size": (9, 9, 9)}, "2 spatial dimensions"),
        ({"groups": 2}, "groups"),
        ({"stride": 3}, "strides"),
        ({"input_dilation": 2}, "output phase"),
        ({"role": "dgrad", "stride": 2}, "output phase"),
        ({"role": "dgrad", "input_dilation": 3}, "strides"),
        ({"kernel": 32, "size": (40, 40)}, "31 a side"),
        ({"activation": "mish"}, "'mish'"),
        ({"outputs": ("z", "y")}, "outputs"),
        ({"role": "dgrad", "bias": True}, "epilogue"),
        ({"models": 2}, "models"),
        ({"batch": 0}, "x is empty"),
        ({"size": (2, 9)}, "y is empty"),
        ({"batch": 2**20, "channels": (3, 8), "size": (32, 32)}, "elements"),
    ],
)
def test_each_reason(changes, words):
    found = support.reasons(product(**changes), (9, 0))
    assert any(words in reason for reason in found), found


def test_all_reasons_are_listed():
    found = support.reasons(product(groups=2, stride=3, dtype="float32", activation="mish"), None)
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
    ],
)
def test_names(changes, name):
    assert support.variant(product(**changes)) == name
    assert support.kernel_name(product(**changes)) == f"pallas_conv_{name}"


def test_copies():
    assert support.copies(product()) == ()
    told = support.copies(product(channels=(3, 20), stride=2, out_dtype="float32"))
    assert [next(word for word in ("channels", "strides") if word in line) for line in told] == ["channels", "strides"]
    assert "from 24 to 20" in support.copies(product(channels=(64, 20)))[-1]


@pytest.mark.parametrize("case", cases.small(), ids=str)
def test_what_is_chosen_is_legal(case):
    assert config.illegal(config.Problem.of(case.product), config.choose(case.product)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"box": (1, 8, 4)}, "box"),
        ({"box": (1, 64)}, "box"),
        ({"bn": 24}, "bn"),
        ({"box": (1, 8, 16), "bn": 144}, "bn"),
        ({"bk": 128}, "bk"),
        ({"stages": 40}, "smem_bytes"),
        ({"halo": True, "box": (2, 8, 4)}, "one image"),
    ],
)
def test_illegal_configurations_say_why(changes, words):
    cfg = config.Config(**{"box": (1, 8, 8), "bn": 64, **changes})
    assert words in config.illegal(config.Problem.of(product()), cfg)


def test_importing_the_room_imports_no_pallas():
    modules = "pallas_conv.kernels.support, pallas_conv.kernels.config"
    script = f"import sys, {modules}; print('jax.experimental.pallas' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_fingerprint_is_the_same_in_another_process():
    script = "from pallas_conv.kernels.support import fingerprint; print(fingerprint())"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert other == support.fingerprint()
    assert len(other) == 12

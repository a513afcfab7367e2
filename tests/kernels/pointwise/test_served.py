"""Whole backward passes of 1x1 convolutions: which are served, what is said of the others, and the names of things."""

import dataclasses

import pytest

from pallas_conv import target
from pallas_conv.dispatch import plan, trust
from pallas_conv.equation import Equation, operands_of
from pallas_conv.kernels import families, modelled, serve
from pallas_conv.kernels.family import Size
from pallas_conv.kernels.pointwise import POINTWISE, search, served
from pallas_conv.kernels.pointwise.plan import Config, Problem
from tests.kernels import cases
from workloads.ladder.pointwise import ALL, bwd

IMAGES = (1, 8, 16)


@pytest.mark.parametrize(
    "layer",
    [
        bwd(2, (3, 5), (7, 9)),
        bwd(2, (512, 64), (7, 9)),
        bwd(2, (384, 128), (7, 9), outputs=ALL),
        bwd(2, (256, 192), (7, 9)),
        bwd(2, (128, 384), (7, 9), outputs=ALL),
        bwd(2, (128, 256), (7, 9), outputs=ALL, activation="gelu"),
        bwd(2, (64, 384), (300,), activation="relu", dtype="float16"),
        bwd(2, (1, 9), (3, 4, 5), out_dtype="float32"),
        bwd(2, (64, 64), (7, 9), models=3),
    ],
    ids=str,
)
def test_served(layer):
    assert families.serving(layer) is POINTWISE
    assert families.find(layer, (9, 0)) is POINTWISE
    assert next(search.candidates(Problem.of(layer)), None) is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "dgrad", "outputs": ()}, "there is no kernel for the product 'dgrad'"),
        ({"kernel": 3}, "not of kernel (3, 3), groups 1 and channels (24, 40)"),
        ({"groups": 2}, "of a 1x1 layer of one group and several channels, not of kernel (1, 1), groups 2"),
        ({"channels": (1, 1)}, "groups 1 and channels (1, 1)"),
        ({"stride": 2}, "x and its cotangent have the same pixels"),
        ({"padding": 1}, "x and its cotangent have the same pixels"),
        ({"padding": ((1, -1), 0)}, "x and its cotangent have the same pixels"),
        ({"size": (9, 9, 9, 9)}, "1 to 3 spatial dimensions"),
        ({"dtype": "float32"}, "of 16-bit operands"),
        ({"out_dtype": "float16"}, "the result must be bfloat16 like the operands, or float32, not float16"),
        ({"outputs": ("dx", "db")}, "('dx', 'dw') and ('dx', 'dw', 'db') are computed, not ('dx', 'db')"),
        ({"activation": "mish"}, "the derivative of mish is not fused"),
        ({"batch": 0}, "x is empty"),
        ({"channels": (0, 9)}, "x is empty"),
        ({"batch": 2**20, "size": (64, 64)}, "x has more than"),
        ({"channels": (64, 512)}, "in registers; of the narrowest one, needed=190 registers must be at most 168"),
        ({"channels": (64, 320)}, "in registers; of the narrowest one, needed=222 registers must be at most 168"),
        ({"channels": (384, 96), "activation": "gelu"}, "of the narrowest one, smem_bytes="),
    ],
    ids=str,
)
def test_each_reason(changes, words):
    given = {"role": "bwd", "batch": 2, "channels": (24, 40), "size": (7, 9), "kernel": 1, "outputs": ALL[:2]} | changes
    positional = [given.pop(name) for name in ("role", "batch", "channels", "size", "kernel")]
    product = cases.product(*positional, **given)
    assert any(words in reason for reason in served.reasons(product)), served.reasons(product)


H100 = target.resolve("h100")


def plans(product, implementation=("mosaic",), outputs=None):
    equation = Equation.of(product, implementation)
    return plan.plans(equation, H100, operands_of(product))


@pytest.mark.parametrize(
    ("layer", "roles"),
    [
        (bwd(64, (24, 144), (56, 56), outputs=ALL, activation="relu"), ["bwd"]),
        (bwd(64, (64, 256), (56, 56), outputs=ALL), ["bwd"]),
        (bwd(64, (256, 128), (56, 56), outputs=ALL, activation="gelu"), ["dgrad", "wgrad"]),  # many instructions
        (bwd(64, (192, 192), (14, 14)), ["dgrad", "wgrad"]),  # few parts, whose sums would take long to add
        (bwd(64, (64, 512), (14, 14)), ["dgrad", "wgrad"]),  # not served
    ],
    ids=str,
)
@pytest.mark.parametrize("implementation", [("mosaic", "xla"), ("interpret",)], ids=str)
def test_whoever_asks_for_kernels_gets_the_faster_ones_by_the_model(layer, roles, implementation):
    found = plans(layer, implementation)
    assert [it.product.role for it in found] == roles
    words = "no one kernel computes all gradients at once: " + (
        "by the model" if not served.reasons(layer) else "a block"
    )
    assert any(words in note for note in found[0].notes) == (roles != ["bwd"])


def test_the_model_counts_what_xla_does_beside_the_kernels():
    """Without the pass that multiplies the cotangent, the kernels of the parts would be chosen."""
    layer = bwd(64, (144, 24), (56, 56), activation="relu")
    (whole,) = plans(layer)
    parts = [
        serve.kernel(dataclasses.replace(layer, role=role, outputs=(), activation=None)) for role in ("dgrad", "wgrad")
    ]
    (at_once, alone), cotangent = (modelled.microseconds(k) for k in ([whole.to_run], parts)), 2 * 64 * 24 * 56 * 56
    assert whole.product.role == "bwd"
    assert alone < at_once < modelled.microseconds(parts, 3 * cotangent)


def test_a_sum_that_xla_makes_by_itself_counts_against_the_one_kernel(monkeypatch):
    """dx and dw at once, and XLA reads the cotangent again for db: two kernels, of which one sums it in passing, are faster."""
    layer = bwd(64, (192, 192), (56, 56), outputs=ALL)
    assert [it.product.role for it in plans(dataclasses.replace(layer, outputs=ALL[:2]))] == ["bwd"]
    without = dataclasses.replace(layer, outputs=ALL[:2])
    unserved = lambda product: ("made up",) if "db" in product.outputs else ()
    monkeypatch.setattr(type(POINTWISE), "reasons", staticmethod(unserved))
    at_once = modelled.microseconds([serve.kernel(without)], 2 * 64 * 192 * 56 * 56)
    parts = plans(layer)
    assert [it.product.role for it in parts] == ["dgrad", "wgrad"]
    assert parts[1].product.outputs == ("dw", "db")
    assert modelled.microseconds([it.to_run for it in parts]) < at_once


def test_auto_asks_the_records_alone(monkeypatch):
    layer = bwd(64, (192, 192), (14, 14))
    monkeypatch.setattr(plan, "_trust", lambda kernel, *_: trust.Trust(kernel.family is not POINTWISE, "made up"))
    found = plans(layer, ("auto",))
    assert [it.product.role for it in found] == ["dgrad", "wgrad"]
    assert "no one kernel computes all gradients at once: made up" in found[0].notes


PLAIN = {"2d", "bf16", "1x1blocks", "n2B"}


def words(config, channels=(24, 40), **changes):
    return set(served.code_path(bwd(2, channels, (7, 9), **changes), config).split())


def test_code_paths():
    assert words(Config(IMAGES)) == PLAIN
    assert words(Config((2, 8, 8), 128, split_k=2), (200, 72)) == PLAIN - {"1x1blocks"} | {
        "2x2blocks", "images", "several"
    }  # fmt: skip
    more = words(Config(IMAGES), outputs=ALL, activation="silu", models=2, out_dtype="float32", dtype="float16")
    assert more == {"2d", "f16", "1x1blocks", "examples", "n4B", "bias", "derivative"}


def test_other_names():
    layer = bwd(2, (24, 40), (7, 9), outputs=ALL, activation="gelu")
    assert served.epilogue(layer, Config(IMAGES)) == "bf16 derivative_gelu"
    assert served.epilogue(bwd(2, (24, 40), (7, 9), out_dtype="float32"), Config(IMAGES)) == "f32 linear"
    assert serve.kernel(layer).name == "pallas_conv_pointwise_2d_bf16_s1_derivative_bias_gelu_dxdwdb"
    assert served.series(bwd(2, (24, 40), (9,), models=3, out_dtype="float32")) == "1d_bf16f32_s1_models"


def test_size():
    """Pixels of 126, read and written once: of both gradients' multiply-adds."""
    found = served.size(bwd(2, (24, 40), (7, 9), outputs=ALL, activation="silu"))
    weights = 24 * 40
    assert found == Size(2 * 126 * weights, 126 * (2 * 24 + 2 * 40) * 2 + weights * (2 + 4) + 40 * 4, 40, 24, 1)


def test_notes_name_the_copies():
    told = served.notes(bwd(2, (9, 20), (7, 9), activation="silu", out_dtype="float32"), Config(IMAGES, split_k=2))
    assert told == (
        "x is padded from 9 to 16 channels: TMA strides are 16 bytes",
        "the cotangent (and what the activation saved likewise) is padded from 20 to 24 channels: TMA strides are 16 bytes",
        "the input gradient is sliced from 12 to 9 channels",
        "XLA adds 4 partial weight gradients, in float32 and always in the same order",
    )
    assert len(served.notes(bwd(2, (24, 40), (7, 9)), Config(IMAGES))) == 1

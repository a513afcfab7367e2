"""Packed groups at full size, compiled for an H100 that need not be there: what ptxas made of them, and what XLA did around."""

import functools
import math
import re

import pytest

from compiled import kernels
from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import HOPPER, WARPGROUP
from workloads.ladder.packed_groups import layer

pytestmark = pytest.mark.aot

FUSED = {"bias": True, "residual": True, "activation": "gelu", "outputs": ("y", "z")}


of_32 = functools.partial(layer, batch=32)
LAYERS = {
    "multiplier_16": of_32("fprop", 64, (1, 16), (56, 56), 3, 1, 1, bias=True, activation="silu"),
    "multiplier_16_input_gradient": of_32("dgrad", 64, (1, 16), (56, 56), 3, 1, 1),
    "multiplier_16_weight_gradient": of_32("wgrad", 64, (1, 16), (56, 56), 3, 1, 1, outputs=("dw", "db")),
    "one_of_sixteen": of_32("fprop", 64, (16, 1), (28, 28), 3, 1, 1, residual=True),
    "one_of_sixteen_weight_gradient": of_32("wgrad", 64, (16, 1), (28, 28), 3, 1, 1, dtype="float32"),
    "four_in_sixteen_out_everything_fused": of_32("fprop", 32, (4, 16), (56, 56), 3, 2, 1, **FUSED),
    "seven_in_64_out_7x7": of_32("fprop", 96, (7, 64), (28, 28), 7, 1, 3, **FUSED),
    "seven_in_64_out_7x7_input_gradient": of_32("dgrad", 96, (7, 64), (28, 28), 7, 1, 3),
    "a_prime_number_of_groups": of_32("fprop", 67, (8, 16), (28, 28), 3, 1, 1),
    "float32": of_32("fprop", 48, (3, 12), (28, 28), 3, 1, 1, dtype="float32", bias=True),
    "transposed": of_32("fprop", 32, (16, 8), (14, 14), 4, 1, 2, input_dilation=2, bias=True),
    "volume": of_32("fprop", 16, (1, 16), (8, 28, 28), 3, 1, 1, bias=True, activation="relu"),
    "two_models": of_32("fprop", 16, (2, 12), (28, 28), 3, 1, 1, models=2),
}
IN_CI = ("multiplier_16", "multiplier_16_weight_gradient")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (n not in IN_CI)) for n in LAYERS])
def test_one_launch_without_spills(name):
    kernel = serve.kernel(LAYERS[name])
    program, used = kernels.compiled(LAYERS[name], kernel.config)
    assert used.kernels == 1
    assert kernel.name in program.as_text()
    assert "cudnn" not in program.as_text()
    assert used.spills == 0, used.log
    assert used.registers * WARPGROUP <= HOPPER.registers, used.log
    assert "serializ" not in used.log, used.log


@pytest.mark.parametrize(
    "name", ["multiplier_16", pytest.param("multiplier_16_input_gradient", marks=pytest.mark.extended)]
)
def test_activations_are_neither_padded_nor_sliced(name):
    product = LAYERS[name]
    program, _ = kernels.compiled(product, serve.choose(product))
    most = 9 * 16 * 1024  # weights of sixteen groups in one
    for shape in re.findall(r" = \w+\[([\d,]+)\]\S* (?:pad|slice)\(", program.as_text()):
        assert math.prod(map(int, shape.split(","))) <= most, shape

"""Depthwise products in blocks of taps at full size, compiled for an H100 that need not be there: what ptxas made of them."""

import pytest

from compiled import kernels
from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import HOPPER, WARPGROUP
from pallas_conv.kernels.tap_blocks.blocks import blocks
from tests.kernels.tap_blocks.proving import grouped

pytestmark = pytest.mark.aot

FUSED = {"bias": True, "residual": True, "activation": "gelu", "outputs": ("y", "z")}
BF16 = {"dtype": "bfloat16", "group": 1}
LAYERS = {
    "31x31_float32": grouped("fprop", 128, (56, 56), 31, 1, 15, group=1, batch=64, **FUSED),
    "31x31_float32_input_gradient": grouped("dgrad", 128, (56, 56), 31, 1, 15, group=1, batch=64),
    "31x31_float32_weight_gradient": grouped(
        "wgrad", 128, (56, 56), 31, 1, 15, group=1, batch=64, outputs=("dw", "db")
    ),
    "13x13_s2": grouped("fprop", 128, (56, 56), 13, 2, 6, batch=64, **BF16, **FUSED),
    "13x13_s2_input_gradient": grouped("dgrad", 128, (56, 56), 13, 2, 6, batch=64, **BF16),
    "13x13_s2_weight_gradient": grouped("wgrad", 128, (56, 56), 13, 2, 6, batch=64, **BF16),
    "13x13_dilated": grouped("fprop", 128, (56, 56), 13, 1, 12, 2, batch=64, **BF16, **FUSED),
    "7x7x7": grouped("fprop", 64, (16, 56, 56), 7, 1, 3, batch=4, **BF16, **FUSED),
    "7x7x7_weight_gradient": grouped("wgrad", 64, (16, 56, 56), 7, 1, 3, batch=4, **BF16),
    "5x5_of_groups_of_eight_in_float32": grouped("fprop", 128, (56, 56), 5, 1, 2, batch=64, **FUSED),
    "5x5_of_groups_of_eight_in_float32_weight_gradient": grouped("wgrad", 128, (56, 56), 5, 1, 2, batch=64),
    "two_models": grouped("fprop", 64, (28, 28), (12, 11), 1, (6, 5), group=1, batch=8, models=2),
}
IN_CI = {"13x13_s2_input_gradient", "two_models"}


@pytest.mark.parametrize(
    "name", [n if n in IN_CI else pytest.param(n, marks=pytest.mark.extended) for n in LAYERS], ids=str
)
def test_every_launch_compiles_without_spills(name):
    product = LAYERS[name]
    kernel = serve.kernel(product)
    program, used = kernels.compiled(product, kernel.config)
    assert used.kernels == len(blocks(product)) > 1
    assert kernel.name in program.as_text()
    assert "cudnn" not in program.as_text()
    assert used.spills == 0, used.log
    warpgroups = (kernel.config.consumers + 1) * kernel.config.ctas_per_sm
    assert used.registers * WARPGROUP * warpgroups <= HOPPER.registers, used.log
    assert "serializ" not in used.log, used.log

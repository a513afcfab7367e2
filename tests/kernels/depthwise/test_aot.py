"""The depthwise kernel at full size, compiled for an H100 that need not be there: what ptxas made of it."""

import random

import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.depthwise import DEPTHWISE, legal
from pallas_conv.kernels.depthwise.plan import CHANNELS, Config, Problem
from pallas_conv.kernels.depthwise.tiling import tiling
from pallas_conv.kernels.gpu import HOPPER
from pallas_conv.spec import Product
from tests.kernels import aot
from tests.kernels.depthwise.proving import depthwise, some_config, some_product
from workloads.served import served

pytestmark = pytest.mark.aot

SUITE = served(DEPTHWISE)
FUSED = {"bias": True, "residual": True, "activation": "gelu", "outputs": ("y", "z")}
ALL = ("dx", "dw", "db")
LAYERS = {  # of kinds that the suite does not have
    "float32_everything_fused": depthwise("fprop", 32, 96, (56, 56), 5, 1, 2, dtype="float32", **FUSED),
    "7x7_everything_fused": depthwise("fprop", 32, 96, (56, 56), 7, 1, 3, **FUSED),
    "transposed": depthwise("fprop", 32, 64, (56, 56), 4, 1, 2, input_dilation=2, **FUSED),
    "float32_result": depthwise("fprop", 32, 128, (56, 56), 5, 1, 2, out_dtype="float32", **FUSED),
    "volume_s2": depthwise("dgrad", 4, 64, (16, 56, 56), 3, 2, 1),
    "64_taps": depthwise("fprop", 8, 512, (1024,), 64, 1, 32, **FUSED),
    "7x7x1_weight_gradient": depthwise("wgrad", 4, 64, (16, 56, 56), (7, 7, 1), 1, (3, 3, 0), outputs=("dw", "db")),
    "9x11": depthwise("fprop", 32, 64, (28, 28), (9, 11), 1, (4, 5), **FUSED),
    "dilated": depthwise("fprop", 8, 64, (64, 64), 3, 1, 6, 6, bias=True),
    "3x31_weight_gradient": depthwise("wgrad", 32, 64, (64, 256), (3, 31), 1, (1, 15), outputs=("dw", "db")),
    "3x33_weight_gradient": depthwise("wgrad", 32, 32, (64, 256), (3, 33), 1, (1, 16), outputs=("dw", "db")),
    "transposed_weight_gradient": depthwise("wgrad", 32, 64, (56, 56), 4, 1, 2, input_dilation=2, outputs=("dw", "db")),
    "float32_weight_gradient": depthwise("wgrad", 32, 64, (56, 56), 7, 1, 3, dtype="float32", outputs=("dw", "db")),
    "models": depthwise("fprop", 8, 24, (28, 28), 3, 1, 1, models=4, bias=True),
    "7x7_weight_and_bias_gradient": depthwise("wgrad", 32, 96, (56, 56), 7, 1, 3, outputs=("dw", "db")),
    **{
        f"convnext_s{n}_weight_and_bias_gradient": depthwise("wgrad", 256, c, (p, p), 7, 1, 3, outputs=("dw", "db"))
        for n, c, p in ((1, 96, 56), (2, 192, 28), (3, 384, 14), (4, 768, 7))
    },
    "convnext_s2_weight_gradient": depthwise("wgrad", 256, 192, (28, 28), 7, 1, 3),
    "convnext_s4_weight_gradient": depthwise("wgrad", 256, 768, (7, 7), 7, 1, 3),
    "8x8_weight_and_bias_gradient": depthwise("wgrad", 32, 96, (56, 56), 8, 1, 4, outputs=("dw", "db")),
    "9x6_of_groups_of_eight": depthwise("wgrad", 32, 96, (56, 56), (9, 6), 1, (4, 3), group=8, outputs=("dw", "db")),
    "groups_of_two": depthwise("fprop", 32, 96, (56, 56), 5, 1, 2, group=2, **FUSED),
    "groups_of_eight": depthwise("wgrad", 32, 96, (56, 56), 5, 1, 2, group=8, outputs=("dw", "db")),
    "volume_of_groups_of_four": depthwise("wgrad", 8, 96, (16, 28, 28), 3, 1, 1, group=4, outputs=("dw", "db")),
    "float32_groups_of_four": depthwise("fprop", 32, 96, (56, 56), 5, 1, 2, group=4, dtype="float32", **FUSED),
    "float32_groups_of_eight": depthwise(
        "wgrad", 32, 96, (56, 56), 3, 1, 1, group=8, dtype="float32", outputs=("dw", "db")
    ),
    "one_channel_in_two_out": depthwise("fprop", 32, 96, (56, 56), 3, 1, 1, group=(1, 2), **FUSED),
    "groups_of_three": depthwise("wgrad", 32, 96, (56, 56), 3, 2, 1, group=3, outputs=("dw", "db")),
    "backward_of_two_in_six_out": depthwise(
        "bwd", 32, 96, (56, 56), 3, 1, 1, group=(2, 6), outputs=ALL, activation="silu"
    ),
    "backward_5x5": depthwise("bwd", 32, 96, (56, 56), 5, 1, 2, outputs=ALL),
    "backward_5x5_gelu": depthwise("bwd", 32, 96, (56, 56), 5, 1, 2, outputs=ALL, activation="gelu"),
    "backward_of_a_line_silu": depthwise("bwd", 8, 512, (2048,), 31, 1, 15, outputs=ALL, activation="silu"),
    "backward_of_a_volume_relu": depthwise("bwd", 4, 64, (16, 56, 56), 3, 1, 1, outputs=ALL, activation="relu"),
    "backward_float32_gelu_tanh": depthwise(
        "bwd", 32, 64, (56, 56), 3, 2, 1, outputs=ALL, dtype="float32", activation="gelu_tanh"
    ),
    "backward_4x4_s2": depthwise("bwd", 32, 64, (56, 56), 4, 2, 1, outputs=ALL),
    "backward_of_a_volume": depthwise("bwd", 4, 64, (16, 56, 56), 3, 1, 1, outputs=ALL),
    "backward_transposed_float32": depthwise(
        "bwd", 32, 64, (28, 28), 3, 1, 1, input_dilation=2, dtype="float32", outputs=("dx", "dw")
    ),
    "backward_of_float32_groups_of_two": depthwise(
        "bwd", 32, 96, (56, 56), 3, 1, 1, group=2, dtype="float32", outputs=ALL
    ),
    "backward_of_groups_of_eight": depthwise("bwd", 32, 96, (56, 56), (3, 5), 1, (1, 2), group=8, outputs=ALL),
    "float32_groups_of_two": depthwise("dgrad", 8, 96, (16, 28, 28), 3, 2, 1, group=2, dtype="float32"),
}


def check(product: Product, cfg: Config) -> None:
    t = tiling(Problem.of(product), cfg)
    multiplies, loads = "mma.sync.aligned.m16n8k", "ldmatrix"
    if product.compute_dtype == "float32":
        multiplies, loads = "fma.rn.f32", "ld.shared"
    _, used = aot.compiled(product, cfg, t.smem_bytes - t.barrier_bytes, t.barrier_bytes, multiplies)
    assert loads in used.ptx


IN_CI = {"effnet_dw5_s2/d", "convnext_s1/w", "mamba_k4_f32/w", "resnext_g32/f", "effnet_dw3/b"}


def test_every_depthwise_layer_of_the_suite_but_those_of_many_taps_has_a_kernel():
    layers = {name.split("/")[0] for name in SUITE}
    assert {
        "convnext_s1",
        "convnext_s3",
        "effnet_dw3",
        "effnet_dw5_s2",
        "mamba_k4",
        "conformer_k31",
        "x3d_dw",
        "resnext_g32",
    } <= layers
    assert "replknet_31" not in layers
    assert set(SUITE) >= IN_CI


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (n not in IN_CI)) for n in SUITE])
def test_the_chosen_configuration(name):
    check(SUITE[name], serve.choose(SUITE[name]))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.extended] * (i > 0)) for i, n in enumerate(LAYERS)]
)
def test_the_chosen_configuration_of_other_kinds(name):
    check(LAYERS[name], serve.choose(LAYERS[name]))


def large(seed: int) -> tuple[Product, Config]:
    """A random product, and a random tile of it that needs nearly as many registers as are legal, if it needs any."""
    rng = random.Random(f"compiled depthwise {seed}")
    while True:
        product = some_product(rng)
        problem = Problem.of(product)
        for _ in range(20):
            cfg = some_config(rng, product)
            if legal.illegal(problem, cfg):
                continue
            t = tiling(problem, cfg)
            limit = HOPPER.register_limit((cfg.consumers + 1) * cfg.ctas_per_sm)
            if 2 * legal.registers(t) >= limit:
                return product, cfg


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.extended) for n in range(1, 60))])
def test_large_tiles_fit_in_registers(seed):
    check(*large(seed))


def test_shared_memory_is_used_to_its_limit():
    """A ring that fills what a block may have."""
    product, cfg = SUITE["mamba_k4/f"], Config((1, 1, 64), channel_warpgroups=2, stages=21)
    assert tiling(Problem.of(product), cfg).smem_bytes > HOPPER.smem_limit(1) - 8 * 1024
    assert cfg.channels == 2 * CHANNELS
    check(product, cfg)

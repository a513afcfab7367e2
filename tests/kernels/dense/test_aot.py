"""The dense kernel at full size, compiled for an H100 that need not be there: what ptxas made of it."""

import dataclasses
import math
import random
import re
from typing import Any

import pytest

from pallas_conv.activations import ACTIVATIONS
from pallas_conv.kernels import serve
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.dense.served import notes, reasons
from pallas_conv.kernels.family import EPILOGUE_OUTPUTS
from pallas_conv.spec import Product
from tests.kernels import aot, cases
from workloads.served import products, served

pytestmark = pytest.mark.aot

p = cases.product
LAYERS = {  # of kinds that the suite below does not have
    "resnet_c3_s2": p("fprop", 256, (128, 128), (56, 56), 3, 2, 1, bias=True, activation="silu"),
    "unet_mid_gelu_yz": p("fprop", 16, (512, 512), (64, 64), 3, 1, 1, bias=True, activation="gelu", outputs=("y", "z")),
    "projection_1x1_s2": p("fprop", 256, (512, 1024), (28, 28), 1, 2),
    "aspp_d12": p("fprop", 16, (2048, 256), (33, 33), 3, 1, 12, 12),
    "resnet_c3_input_gradient": p("dgrad", 256, (128, 128), (28, 28), 3, 1, 1),
    "dcgan_t1_input_gradient": p("dgrad", 128, (512, 256), (8, 8), 4, 1, 2, input_dilation=2),
    "grouped": p("fprop", 32, (512, 512), (28, 28), 3, 1, 1, groups=8, bias=True, activation="relu"),
    "models": p("fprop", 16, (64, 64), (32, 32), 3, 1, 1, bias=True, models=4),
    "wavenet": p("fprop", 4, (128, 256), (16384,), 2, 1, ((512, 0),), 512, bias=True),
    "volume": p("fprop", 2, (64, 64), (64, 64, 64), 3, 1, 1, bias=True),
    "volume_s2": p("fprop", 2, (64, 128), (64, 64, 64), 3, 2, 1),
    "residual_relu": p("fprop", 64, (256, 256), (56, 56), 3, 1, 1, bias=True, residual=True, activation="relu"),
    "residual_gelu_yz": p(
        "fprop", 16, (512, 512), (64, 64), 3, 1, 1, residual=True, activation="gelu", outputs=("y", "z")
    ),
    "residual_volume": p("fprop", 2, (64, 64), (64, 64, 64), 3, 1, 1, bias=True, residual=True, out_dtype="float32"),
    "to_rgb": p("fprop", 16, (64, 3), (256, 256), 3, 1, 1, bias=True, activation="tanh"),
    "many_small_volumes": p("fprop", 40, (256, 256), (4, 4, 4), 3, 1, 1, bias=True),
    "odd_buffers": p("fprop", 32, (80, 16), (112, 56), 7, 2, 2),  # no whole KiB of pixels or weights a slot
    "odd_buffers_of_volumes": p("fprop", 8, (48, 48), (8, 40, 40), (5, 3, 3), 1, 1),
    "float32_result": p("fprop", 16, (320, 320), (64, 64), 3, 1, 1, out_dtype="float32", bias=True, activation="tanh"),
}

FEW_TILES = {
    "silu_yz": p("fprop", 8, (1024, 512), (8, 8), 3, 1, 1, bias=True, activation="silu", outputs=("y", "z")),
    "volume": p("fprop", 1, (512, 256), (8, 8, 8), 3, 1, 1, bias=True, activation="gelu"),
    "input_gradient_s2": p("dgrad", 4, (512, 2048), (14, 14), 3, 2, 1),
    "grouped_models": p("fprop", 2, (512, 256), (8, 8), 3, 1, 1, groups=2, bias=True, models=2),
    "tf32": p("fprop", 2, (512, 250), (64,), 5, 1, 2, dtype="float32", bias=True, activation="relu"),
}


def check(product, cfg):
    planned = tiling(Problem.of(product), cfg)
    barriers = planned.barrier_bytes
    compiled, used = aot.compiled(product, cfg, planned.smem_bytes - barriers, barriers)
    assert used.registers <= 168, used.log
    if not notes(product, cfg):
        assert not moved_activations(product, compiled.as_text())
    return compiled


def moved_activations(product, text):
    """Pads and slices of anything but weights, whose taps lie in another order for a kernel of several phases."""
    shapes = re.findall(r" = \w+\[([\d,]+)\]\S* (?:pad|slice)\(", text)
    taps = math.prod(product.spec.kernel_spatial)
    of_weights = lambda shape: math.prod(shape) <= taps * product.in_channels * product.out_channels
    return [shape for shape in (tuple(map(int, s.split(","))) for s in shapes) if not of_weights(shape)]


ALIKE = ("grouped", "models", "many_small_volumes", "odd_buffers_of_volumes", "residual_relu", "residual_volume")
LIKE_THE_SUITES = ("resnet_c3_s2", "projection_1x1_s2", "aspp_d12", "dcgan_t1_input_gradient", "wavenet", "volume_s2")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.extended] * (n in (*ALIKE, *LIKE_THE_SUITES))) for n in LAYERS]
)
def test_the_chosen_configuration(name):
    assert reasons(LAYERS[name]) == ()
    check(LAYERS[name], serve.choose(LAYERS[name]))


@pytest.mark.parametrize("name", FEW_TILES)
def test_the_parts_of_few_tiles_are_added_in_one_pass(name):
    """One pass reads the parts' sums as the kernel stored them, and computes every output."""
    product = FEW_TILES[name]
    cfg = serve.choose(product)
    assert cfg.split_k > 1
    entry = check(product, cfg).as_text().partition("ENTRY")[2]
    ((sums, size),) = re.findall(r"(%\S+) = f32\[(\S+)\]\S* custom-call\(.*mosaic_gpu", entry)
    assert str(cfg.split_k * (product.models or 1) * product.spec.groups) in size.split(",")
    (reader,) = re.findall(rf" = (.*[(, ]{re.escape(sums)}[,)].*)", entry)
    assert " fusion(" in reader


@pytest.mark.parametrize("split", [2, pytest.param(7, marks=pytest.mark.extended)])
def test_parts_of_the_largest_tiles_fit_in_registers(split):
    """Uneven ones too; and whatever the epilogue is, which is not theirs."""
    product = dataclasses.replace(LAYERS["unet_mid_gelu_yz"], batch=1)
    check(product, Config((1, 8, 16), 128, stages=2, split_k=split))
    check(product, Config((1, 4, 32), 128, stages=2, halo=True, split_k=split))


UNSERVED = {
    "depthwise: one channel of the 16 that a tensor core takes": (
        "convnext_s1", "convnext_s3", "convnext_s1_f32", "effnet_dw3", "effnet_dw3_f16", "effnet_dw5_s2", "replknet_31",
        "x3d_dw", "mamba_k4", "mamba_k4_f32", "conformer_k31",
    ),
    "groups of four channels: the same": ("resnext_g32",),
}  # fmt: skip

SUITE = served(DENSE)


def test_every_dense_layer_of_the_suite_has_a_kernel():
    """All but those of too few channels a group, for which tensor cores multiply mostly padding."""
    without = {name for name, product in products() if product.role in DENSE.roles and name not in SUITE}
    assert without == {f"{name}/{direction}" for names in UNSERVED.values() for name in names for direction in "fd"}


def twin(name: str) -> bool:
    """The same layer in another dtype."""
    layer, _, direction = name.partition("/")
    return any(
        layer.endswith(f"_{dtype}") and f"{layer.removesuffix(f'_{dtype}')}/{direction}" in SUITE
        for dtype in ("f16", "f32")
    )


def kind(name: str) -> tuple[Any, ...]:
    """Properties that make another code path likely: strides, dilations, taps. A plain dgrad is a convolution."""
    product, spec = SUITE[name], SUITE[name].spec
    strided, up, *others = (
        max(n) > 1 for n in (spec.strides, spec.input_dilation, spec.kernel_dilation, spec.kernel_spatial)
    )
    return (product.role if strided or up else "fprop", spec.ndim, strided, up, *others)


OTHERS = ("dcgan_t_last/f", "deepspeech2/f")  # code that none of those has: taps as output channels, rows of 32 bytes
IN_CI = {kind(name): name for name in reversed(SUITE) if not twin(name)}  # the first of each kind


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in (*IN_CI.values(), *OTHERS) else pytest.mark.extended) for name in SUITE],
)
def test_every_dense_layer_of_the_suite(name):
    check(SUITE[name], serve.choose(SUITE[name]))


def generated(seed: int) -> Product:
    """A random product that is served, at sizes like those of networks, volumes of few pixels and many images among them."""
    rng = random.Random(f"compiled {seed}")
    while True:
        nd, groups = rng.choice((1, 2, 2, 3, 3)), rng.choice((1, 1, 1, 2, 4))
        each = lambda low, high, nd=nd: tuple(rng.randint(low, high) for _ in range(nd))
        few = (1, 3, 4) if groups == 1 else (9, 12)
        channels = lambda: groups * rng.choice((*few, 16, 24, 32, 48, 64, 80, 128, 256, 512))  # noqa: B023
        role, dtype = rng.choice(("fprop", "fprop", "dgrad")), rng.choice(("bfloat16", "float16", "float32"))
        epilogue: dict[str, Any] = {}
        if role == "fprop":
            epilogue = {"bias": rng.random() < 0.7, "residual": rng.random() < 0.3}
            epilogue |= {"activation": rng.choice((None, *ACTIVATIONS)), "outputs": rng.choice(EPILOGUE_OUTPUTS)}
        side = rng.choice(((64, 4096), (4, 64), (4, 24))[nd - 1])
        product = p(
            role,
            rng.choice((1, 2, 8, 40, 64)),
            (channels(), channels()),
            tuple(side + extra for extra in each(0, 3)),
            each(1, 4),
            rng.choice((1, 1, each(1, 3))),
            tuple((rng.randint(0, 2), rng.randint(0, 2)) for _ in range(nd)),
            rng.choice((1, 1, each(1, 2))),
            input_dilation=rng.choice((1, 1, each(1, 3))),
            groups=groups,
            dtype=dtype,
            out_dtype=rng.choice((dtype, "float32")),
            models=rng.choice((None, None, None, 2)),
            **epilogue,
        )
        if not reasons(product):
            return product


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.extended) for n in range(1, 80))])
def test_generated(seed):
    check(generated(seed), serve.choose(generated(seed)))


def largest(residual: bool) -> dict[str, Config]:
    """Tiles of as many accumulators as a warpgroup may have."""
    width = 96 if residual else 128
    return {
        "128": Config((1, 8, 16), width, stages=3),
        "64": Config((1, 8, 8), 2 * width, stages=3),
        "halo": Config((1, 4, 32), width, stages=2, halo=True),
        **({"residual ahead": Config((1, 8, 16), width, stages=2, epi_stages=4)} if residual else {}),
    }


@pytest.mark.parametrize(
    "tile", [pytest.param(n, marks=[pytest.mark.extended] * (n in ("128", "64"))) for n in largest(residual=True)]
)
@pytest.mark.parametrize("out_dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.extended)])
def test_the_largest_tiles_with_everything_fused_fit_in_registers(out_dtype, tile):
    kind = {"activation": "gelu", "outputs": ("y", "z"), "out_dtype": out_dtype}
    product = p("fprop", 16, (512, 512), (64, 64), 3, 1, 1, bias=True, residual=True, **kind)
    check(product, largest(residual=True)[tile])


@pytest.mark.parametrize("outputs", [("y",), pytest.param(("y", "z"), marks=pytest.mark.extended)])
@pytest.mark.parametrize("tile", ["128", pytest.param("halo", marks=pytest.mark.extended)])
def test_the_largest_tiles_with_an_activation_alone_fit_in_registers(outputs, tile):
    product = p("fprop", 16, (512, 512), (64, 64), 3, 1, 1, activation="gelu", outputs=outputs)
    check(product, largest(residual=False)[tile])


@pytest.mark.extended
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("outputs", EPILOGUE_OUTPUTS)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("tile", largest(residual=False))
def test_the_largest_tiles_fit_in_registers(activation, outputs, out_dtype, bias, residual, tile):
    kind = {"activation": activation, "outputs": outputs, "out_dtype": out_dtype, "bias": bias, "residual": residual}
    check(p("fprop", 16, (512, 512), (64, 64), 3, 1, 1, **kind), largest(residual)[tile])

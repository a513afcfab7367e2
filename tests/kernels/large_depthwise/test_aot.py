"""The large-kernel depthwise kernel at full size, compiled for an H100 that need not be there: what ptxas made of it."""

import random

import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import ANY_HOPPER
from pallas_conv.kernels.large_depthwise import LARGE_DEPTHWISE, legal, search
from pallas_conv.kernels.large_depthwise.plan import Config, Problem, tiling
from pallas_conv.spec import Product
from tests.kernels import aot
from tests.kernels.large_depthwise.proving import large
from workloads.served import served

pytestmark = pytest.mark.aot

SUITE = served(LARGE_DEPTHWISE)
FUSED = {"bias": True, "activation": "gelu", "outputs": ("y", "z")}
BOTH = ("dw", "db")
LAYERS = {  # of kinds that the suite does not have
    "13x13_of_small_images": large("fprop", 64, 1024, (14, 14), 13, 1, 6, **FUSED),
    "51x5": large("fprop", 64, 128, (56, 56), (51, 5), 1, (25, 2), **FUSED),
    "5x51": large("dgrad", 64, 128, (56, 56), (5, 51), 1, (2, 25)),
    "64x64": large("fprop", 4, 16, (128, 128), 64, 1, 32, **FUSED),
    "float32_result": large("fprop", 64, 128, (56, 56), 31, 1, 15, out_dtype="float32", **FUSED),
    "float16": large("fprop", 64, 128, (56, 56), 29, 1, 14, dtype="float16", **FUSED),
    "weight_gradient_of_51x5": large("wgrad", 64, 128, (56, 56), (51, 5), 1, (25, 2), outputs=BOTH),
    "weight_gradient_of_5x51": large("wgrad", 64, 128, (56, 56), (5, 51), 1, (2, 25), outputs=BOTH),
    "weight_gradient_of_models": large(
        "wgrad", 8, 96, (28, 28), 27, 1, 13, models=4, out_dtype="float32", outputs=BOTH
    ),
}


def check(product: Product, cfg: Config) -> None:
    t = tiling(Problem.of(product), cfg)
    _, used = aot.compiled(product, cfg, t.smem_bytes - t.barrier_bytes, t.barrier_bytes, "mma.sync.aligned.m16n8k16")
    # Of rows and what they are multiplied with, each word once: a matrix of pixels is made of registers.
    assert used.ptx.count("mma.sync.aligned.m16n8k16") == t.chunk_products


IN_CI = {"replknet_31/f", "replknet_31/w"}


def test_every_direction_of_the_suite_has_a_kernel():
    assert set(SUITE) == {f"replknet_31/{direction}" for direction in "fdw"}


@pytest.mark.parametrize(
    "name", [n if n in IN_CI else pytest.param(n, marks=pytest.mark.extended) for n in SUITE], ids=str
)
def test_the_chosen_configuration(name):
    check(SUITE[name], serve.choose(SUITE[name]))


@pytest.mark.parametrize(
    "name",
    [n if n == "51x5" else pytest.param(n, marks=pytest.mark.extended) for n in LAYERS],
    ids=str,
)
def test_the_chosen_configuration_of_other_kinds(name):
    check(LAYERS[name], serve.choose(LAYERS[name]))


def fused_product(rng: random.Random) -> Product:
    """A random product of full size that is served."""
    role, kernel = rng.choice(("fprop", "dgrad", "wgrad")), (rng.randint(1, 64), rng.randint(1, 64))
    size = rng.choice(((56, 56), (28, 30), (200, 100), (14, 14)))
    more = FUSED | {"activation": rng.choice(("gelu", "silu", "gelu_tanh"))} if role == "fprop" else {}
    more |= {"outputs": BOTH} if role == "wgrad" else {}
    return large(
        role,
        16,
        128,
        size,
        kernel,
        1,
        tuple(k // 2 for k in kernel),
        out_dtype=rng.choice(("bfloat16", "float32")),
        **more,
    )


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.extended] * (n > 0)) for n in range(40)])
def test_the_most_sums_fit_in_registers(seed):
    """For random products, the candidate of most registers."""
    rng = random.Random(f"large depthwise registers {seed}")
    while LARGE_DEPTHWISE.reasons(product := fused_product(rng)):
        pass
    problem = Problem.of(product)
    most = lambda cfg: (legal.registers(tiling(problem, cfg)), rng.random())
    check(product, max(search.candidates(problem, ANY_HOPPER), key=most))

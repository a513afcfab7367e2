"""The weight-gradient kernel at full size, compiled for an H100 that need not be there: what ptxas made of it."""

import dataclasses
import functools
import itertools
import random
import re

import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.geometry import boxes
from pallas_conv.kernels.gpu import BARRIER_BYTES, HOPPER
from pallas_conv.kernels.wgrad import WEIGHT_GRADIENT
from pallas_conv.kernels.wgrad.legal import illegal, most_accumulators
from pallas_conv.kernels.wgrad.plan import Config, Problem, tiling
from pallas_conv.spec import Product
from tests.kernels import aot, cases
from workloads.served import served

pytestmark = pytest.mark.aot

SUITE = served(WEIGHT_GRADIENT)
p = functools.partial(cases.product, "wgrad")
LAYERS = {  # of kinds that the suite does not have
    "grouped": p(32, (512, 512), (28, 28), 3, 1, 1, groups=8),
    "float32_result": p(16, (320, 320), (64, 64), 3, 1, 1, out_dtype="float32"),
    "to_rgb": p(16, (64, 3), (256, 256), 3, 1, 1),
    "volume_s2": p(2, (64, 128), (64, 64, 64), 3, 2, 1),
    "many_small_volumes": p(40, (256, 256), (4, 4, 4), 3, 1, 1),
}


def check(product: Product, cfg: Config) -> None:
    t, barriers = tiling(Problem.of(product), cfg), 2 * cfg.stages * BARRIER_BYTES
    _, used = aot.compiled(product, cfg, t.smem_bytes - barriers, barriers)
    assert ("ldmatrix" in used.ptx) == cfg.dy_registers
    if cfg.dy_registers:  # an ldmatrix fills four registers: all products take these, or one copy of them
        operands = re.findall(r"wgmma\.mma_async[^{]*\{[^}]*\}, \{([^}]*)\}", used.ptx)
        assert len({name for of_one in operands for name in of_one.split(",")}) == 4 * used.ptx.count("ldmatrix")
    assert (".multicast::cluster" in used.ptx) == bool(cfg.multicast)


def kind(name: str) -> tuple:
    """Properties that make another code path likely: strides, dilations, taps, few channels, dtypes."""
    product, spec = SUITE[name], SUITE[name].spec
    several = (max(n) > 1 for n in (spec.strides, spec.input_dilation, spec.kernel_dilation, spec.kernel_spatial))
    few = product.in_channels < 64, product.out_channels < 64
    return (spec.ndim, *several, *few, product.models is not None, product.compute_dtype == "float32")


IN_CI = set(list({kind(name): name for name in reversed(SUITE)}.values())[::3])  # some, the first of its kind each


def test_most_layers_of_the_suite_have_a_kernel():
    assert len(SUITE) >= 35


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (n not in IN_CI)) for n in SUITE])
def test_the_chosen_configuration(name):
    check(SUITE[name], serve.choose(SUITE[name]))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.extended] * (i > 0)) for i, n in enumerate(LAYERS)]
)
def test_the_chosen_configuration_of_other_kinds(name):
    check(LAYERS[name], serve.choose(LAYERS[name]))


def large(seed: int, narrow: bool = False) -> tuple[Product, Config]:
    """A layer of the suite, and a random tile of it with nearly as many sums as are legal: all features meet here.

    narrow: with products of 16 columns, of which a tile has many.
    """
    rng = random.Random(f"compiled {'narrow ' * narrow}weight gradient {seed}")
    pick, product = rng.choice, SUITE[rng.choice(list(SUITE))]
    with_bias = dataclasses.replace(product, outputs=("dw", "db"))
    product = with_bias if not WEIGHT_GRADIENT.reasons(with_bias) and pick((True, False)) else product
    problem, bias = Problem.of(product), "db" in product.outputs
    while True:
        in_registers = narrow or bias or pick((True, False))
        m, n = pick(((1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (1, 3)))
        cfg = Config(
            step_pixels=pick(boxes(pick((64, 128)), product.spec.ndim)),
            tile_n=pick((16,) if narrow else (16, 32, 64)) if in_registers else 64,
            taps_per_tile=rng.randint(1, 9),
            channel_loads=pick((1, 1, 2, 4)),
            m_warpgroups=m,
            n_warpgroups=n,
            halo=pick((True, False)),
            dy_registers=in_registers,
            stages=pick((2, 3, 4)),
            split_k=pick((1, 1, 2, 7)),
            ctas_per_sm=pick((1, 1, 2)),
            multicast=pick(("", "x", "dy")),
            transposed=not bias and pick((False, False, True)),
            space_to_depth=pick((False, False, True)),
            row_outputs=pick((1, 1, 2, 4)),
        )
        most = most_accumulators(problem, cfg, HOPPER)
        if not illegal(problem, cfg) and 4 * tiling(problem, cfg).accumulators >= 3 * most:
            return product, cfg


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.extended) for n in range(2, 120))])
def test_large_tiles_fit_in_registers(seed):
    check(*large(seed))


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.extended) for n in range(1, 60))])
def test_large_tiles_of_narrow_products_fit_in_registers(seed):
    check(*large(seed, narrow=True))


STEPS = {"64": (1, 8, 8), "128": (1, 16, 8)}
MOST = {
    f"{m}x{n} consumers, {ctas} a SM, {step} pixels{', dy in registers' if dy else ''}": Config(
        STEPS[step], m_warpgroups=m, n_warpgroups=n, dy_registers=dy, stages=2, ctas_per_sm=ctas
    )
    for (m, n, ctas), step, dy in itertools.product(
        ((1, 1, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1), (1, 3, 1)), STEPS, (False, True)
    )
}


@pytest.mark.extended
@pytest.mark.parametrize("name", MOST)
def test_the_most_sums_fit_in_registers(name):
    """Tiles of as many taps as are legal, at every legal width."""
    tile = MOST[name]
    for outputs in (("dw",), ("dw", "db")) if tile.dy_registers else (("dw",),):
        product = p(16, (256, 512), (64, 64), 5, 1, 2, outputs=outputs)
        for tile_n in (16, 32, 64) if tile.dy_registers else (64,):
            fitting = (dataclasses.replace(tile, tile_n=tile_n, taps_per_tile=n) for n in range(24, 0, -1))
            check(product, next(cfg for cfg in fitting if illegal(Problem.of(product), cfg) is None))


def test_the_most_sums_of_neighbouring_outputs_fit_in_registers():
    """With one tap more the ptxas of CUDA 12.9 spills; that of 13.0 does not."""
    product = p(16, (512, 256), (32,), 16, 1, 11, input_dilation=8)
    more = Config(
        (8, 8), taps_per_tile=4, channel_loads=2, n_warpgroups=2, stages=2, split_k=2, transposed=True, row_outputs=2
    )
    assert illegal(Problem.of(product), more) is not None
    check(product, dataclasses.replace(more, taps_per_tile=3))


def test_shared_memory_is_used_to_its_limit():
    """A tile whose slots fill what a block may have."""
    product, cfg = SUITE["resnet50_c4/w"], Config((1, 8, 8), taps_per_tile=2, m_warpgroups=2, stages=7)
    assert tiling(Problem.of(product), cfg).smem_bytes > HOPPER.smem_limit(1) - 8 * 1024
    check(product, cfg)

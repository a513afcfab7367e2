"""The pointwise kernel at full size, compiled for an H100 that need not be there: what ptxas made of it."""

import itertools

import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.pointwise import POINTWISE, search
from pallas_conv.kernels.pointwise.plan import Problem, tiling
from pallas_conv.spec import Product
from tests.kernels import aot
from workloads.ladder.pointwise import ALL, bwd

pytestmark = pytest.mark.aot

LAYERS = {
    "64_in_256_out": bwd(64, (64, 256), (56, 56)),
    "256_in_64_out": bwd(64, (256, 64), (56, 56)),
    "64_in_64_out_relu": bwd(64, (64, 64), (56, 56), outputs=ALL, activation="relu"),
    "96_in_384_out_gelu": bwd(64, (96, 384), (56, 56), outputs=ALL, activation="gelu"),
    "384_in_96_out": bwd(64, (384, 96), (56, 56), outputs=ALL),
    "24_in_144_out_silu": bwd(64, (24, 144), (56, 56), outputs=ALL, activation="silu"),
    "128_in_128_out_gelu_tanh": bwd(64, (128, 128), (28, 28), outputs=ALL, activation="gelu_tanh"),
    "64_in_4_out": bwd(8, (64, 4), (512, 512), outputs=ALL),
    "a_line": bwd(16, (128, 256), (16384,), outputs=ALL, activation="tanh"),
    "a_volume": bwd(4, (64, 64), (32, 64, 64), outputs=ALL, activation="leaky_relu"),
    "a_volume_float32_result": bwd(2, (32, 3), (64, 64, 64), outputs=ALL, out_dtype="float32"),
    "models": bwd(16, (64, 64), (56, 56), outputs=ALL, activation="silu", models=4),
}
IN_CI = ("64_in_256_out", "96_in_384_out_gelu")


def check(product: Product, cfg) -> None:
    t = tiling(Problem.of(product), cfg)
    aot.compiled(product, cfg, t.buffer_bytes, t.barrier_bytes)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (n not in IN_CI)) for n in LAYERS])
def test_the_chosen_configuration(name):
    check(LAYERS[name], serve.choose(LAYERS[name]))


BLOCKS = range(1, 7)  # of 64 channels
FEW = [
    (c, k) for c, k in itertools.product(BLOCKS, BLOCKS) if not POINTWISE.reasons(bwd(32, (64 * c, 64 * k), (56, 56)))
]


def test_six_blocks_of_weights_are_served_and_twice_as_many_in_two_tiles():
    assert {(1, 6), (2, 6), (2, 3), (4, 3), (1, 3), (6, 1)} <= set(FEW)
    assert not {(1, 5), (2, 5), (4, 4), (6, 6)} & set(FEW)


@pytest.mark.extended
@pytest.mark.parametrize("activation", [None, "relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("blocks", FEW, ids=str)
def test_all_numbers_of_blocks_fit_in_registers(blocks, activation):
    """The deepest candidate of each number of columns, where shared memory suffices for an activation at all."""
    c, k = blocks
    product = bwd(32, (64 * c, 64 * k), (56, 56), outputs=ALL, activation=activation)
    found = {cfg.tile_n: cfg for cfg in search.candidates(Problem.of(product))}
    assert found or (activation and "smem_bytes" in POINTWISE.reasons(product)[0])
    for cfg in found.values():
        check(product, cfg)

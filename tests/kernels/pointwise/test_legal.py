"""Configurations that the pointwise kernel refuses, the reasons it gives, and the candidates."""

import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.pointwise import legal, work
from pallas_conv.kernels.pointwise.plan import Config, Problem, tiling
from pallas_conv.kernels.pointwise.search import candidates
from workloads.ladder import pointwise as ladder
from workloads.ladder.pointwise import ALL, bwd

BOX = (1, 8, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step_pixels": (1, 128)}, "must be (images, *pixels), of 128 pixels"),
        ({"step_pixels": (1, 8, 8)}, "of 128 pixels"),
        ({"step_pixels": (128, 1, 0)}, "of 128 pixels"),
        ({"step_pixels": (2, 8, 8), "problem": {"batch": 3, "models": 2}}, "a box is of one example"),
        ({"tile_n": 0}, "a multiple of 64"),
        ({"tile_n": 96}, "a multiple of 64"),
        ({"problem": {"channels": (200, 40)}}, "among 4 blocks, which all read the cotangent: at most 2 should"),
        ({"stages": 1}, "stages=1 must be 2 to 32"),
        ({"stages": 33}, "stages=33 must be 2 to 32"),
        ({"tile_n": 128, "stages": 2, "problem": {"channels": (72, 136)}}, "stages=2 must be 3 to 32"),
        ({"tile_n": 128, "problem": {"channels": (72, 72), "activation": "relu"}}, "stages=2 must be 3 to 32"),
        ({"split_k": 0}, "at least 1"),
        ({"split_k": 4}, "at most the 3 steps"),
        ({"problem": {"channels": (24, 328), "size": (1, 1)}, "step_pixels": (128, 1, 1), "stages": 9}, "smem_bytes="),
        ({"tile_n": 256, "stages": 2, "problem": {"channels": (256, 128)}}, "needed=190 registers must be at most 168"),
    ],
    ids=str,
)
def test_each_reason(changes, words):
    given = {"batch": 3, "channels": (24, 40), "size": (8, 16)} | changes.pop("problem", {})
    product = bwd(given.pop("batch"), given.pop("channels"), given.pop("size"), **given)
    why = legal.illegal(Problem.of(product), Config(**{"step_pixels": BOX} | changes))
    assert why is not None
    assert words in why


def test_an_illegal_configuration_is_refused_when_it_runs():
    layer = bwd(3, (24, 40), (8, 16))
    with pytest.raises(ValueError, match="must be a multiple of 64"):
        serve.kernel(layer, config=Config(BOX, 96)).run(*layer.operand_shapes)


LAYERS = {
    "early, narrow": bwd(64, (24, 144), (56, 56), outputs=ALL, activation="silu"),
    "early, wide": bwd(64, (256, 64), (56, 56)),
    "few pixels": bwd(8, (128, 128), (7, 7)),
    "line": bwd(16, (64, 64), (4096,), outputs=ALL),
    "volume": bwd(2, (64, 64), (32, 64, 64)),
    "models": bwd(4, (64, 64), (28, 28), models=8),
    **{case.name: case.product for rung in ladder.LADDER for case in rung.cases[-1:]},
}


@pytest.mark.parametrize("name", LAYERS)
def test_candidates(name):
    problem = Problem.of(LAYERS[name])
    found = list(candidates(problem))
    assert 1 <= len(found) == len(set(found)) <= 100
    for cfg in found:
        assert legal.illegal(problem, cfg) is None
        if cfg.split_k > 1:
            assert work.workspace_bytes(tiling(problem, cfg)) <= min(256 * 2**20, work.operand_bytes(problem) // 4)


def test_what_has_more_steps_than_indices_is_not_served():
    """Each of few pixels: 2**31 elements are not too many, but 2**25 steps in as many parts are."""
    layer = bwd(2**25 + 1, (8, 9), (1, 1), models=2)
    assert all(legal.illegal(Problem.of(layer), cfg) is None for cfg in candidates(Problem.of(layer)))


def test_a_large_layer_fills_the_chip_with_one_wave_of_blocks():
    layer = LAYERS["early, narrow"]
    assert tiling(Problem.of(layer), serve.choose(layer)).blocks == 132
    assert tiling(Problem.of(layer), serve.choose(layer, Gpu(78))).blocks == 78

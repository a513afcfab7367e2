"""Candidates of the weight-gradient kernel: legal ones, not too many, and what is chosen among them fills the chip."""

import time

import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.wgrad import WEIGHT_GRADIENT, work
from pallas_conv.kernels.wgrad.legal import illegal
from pallas_conv.kernels.wgrad.plan import Problem, tiling
from pallas_conv.kernels.wgrad.search import candidates
from tests.kernels import cases
from tests.kernels.products import product
from workloads.ladder import wgrad as ladder
from workloads.served import served

LAYERS = served(WEIGHT_GRADIENT)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.extended] * (i % 4 > 0)) for i, n in enumerate(LAYERS)]
)
def test_candidates_of_the_suite(name):
    problem = Problem.of(LAYERS[name])
    start = time.process_time()
    found = list(candidates(problem))
    assert time.process_time() - start < 10
    assert 30 <= len(found) == len(set(found)) <= 4000
    for cfg in found[::7]:
        t = tiling(problem, cfg)
        assert illegal(problem, cfg) is None
        assert t.work_tiles > 0
        assert work.workspace_bytes(t) <= min(256 * 2**20, work.operand_bytes(problem) // 4)


@pytest.mark.parametrize("case", [rung.cases[-1] for rung in ladder.LADDER], ids=str)
def test_what_is_chosen_is_legal(case):
    """There are candidates for all products that are served, small ones too."""
    assert illegal(Problem.of(case.product), serve.choose(case.product)) is None


@pytest.mark.parametrize("num_sms", [1, 2, 132])
def test_no_more_blocks_than_tiles_or_than_a_chip_holds(num_sms):
    for channels in ((64, 16), (512, 512)):
        p = product(role="wgrad", channels=channels)
        cfg = serve.choose(p, Gpu(num_sms))
        t = tiling(Problem.of(p), cfg)
        assert 0 < t.workers(num_sms) * cfg.cluster <= num_sms * cfg.ctas_per_sm
        assert t.workers(num_sms) <= t.work_tiles


def test_few_tiles_are_split_over_pixels():
    few = product(role="wgrad", channels=(64, 64), batch=64, size=(56, 56), padding=1)
    cfg = serve.choose(few)
    t = tiling(Problem.of(few), cfg)
    assert cfg.split_k > 1
    assert t.workers(132) > 100
    many = product(role="wgrad", channels=(2048, 2048), batch=64, size=(14, 14), padding=1)
    assert serve.choose(many).split_k == 1


def test_operands_have_the_roles_that_make_one_phase():
    up, down = (product(role="wgrad", size=(16, 16), **changes) for changes in ({"input_dilation": 2}, {"stride": 2}))
    assert serve.choose(up).transposed
    assert not serve.choose(down).transposed
    assert {cfg.transposed for cfg in candidates(Problem.of(product(role="wgrad", size=(16, 16))))} == {False, True}


def test_three_channels_are_narrow_on_either_side():
    stem = cases.product("wgrad", 32, (3, 64), (32, 32), 3, 1, 1)
    assert all(cfg.tile_n == 16 for cfg in candidates(Problem.of(stem)) if not cfg.transposed)
    to_rgb = cases.product("wgrad", 32, (64, 3), (32, 32), 3, 1, 1)
    assert all(cfg.tile_n == 16 for cfg in candidates(Problem.of(to_rgb)) if cfg.transposed)
    assert serve.choose(to_rgb).transposed

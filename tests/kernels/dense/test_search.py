"""Tiles that the dense kernel gets: legal ones, that fill the chip, and do what few channels or few tiles need."""

import dataclasses

import pytest

from pallas_conv.kernels import chips, choice, cost, serve
from pallas_conv.kernels.dense import DENSE, work
from pallas_conv.kernels.dense.legal import illegal
from pallas_conv.kernels.dense.plan import Problem, tiling
from pallas_conv.kernels.dense.search import candidates
from pallas_conv.kernels.gpu import ANY_HOPPER, Gpu
from tests.kernels.products import product
from workloads.ladder import dense as ladder

NOMINAL = chips.chips()[0]


def best(problem, gpu=ANY_HOPPER):
    return choice.best(DENSE, problem, gpu)


def clocks(problem, cfg):
    return cost.clocks(work.count(problem, cfg), NOMINAL)


@pytest.mark.parametrize("case", ladder.CASES, ids=str)
def test_what_is_chosen_is_legal(case):
    assert illegal(Problem.of(case.product), serve.choose(case.product)) is None


@pytest.mark.parametrize("num_sms", [1, 2, 132])
def test_no_more_blocks_than_tiles_or_than_a_chip_holds(num_sms):
    for channels in ((64, 16), (512, 512)):
        problem = Problem.of(product(channels=channels))
        cfg = best(problem, Gpu(num_sms))
        t = tiling(problem, cfg)
        assert 0 < t.workers(num_sms) * cfg.cluster <= num_sms * cfg.ctas_per_sm
        assert t.workers(num_sms) <= t.work_tiles


def test_a_residual_has_buffers_to_be_loaded_ahead():
    assert serve.choose(product(residual=True, bias=True)).epi_stages > 1  # beside three stages of a halo
    assert serve.choose(product(residual=True, channels=(64, 256), kernel=1, padding=0)).epi_stages > 2


def test_few_tiles_are_split():
    few = Problem.of(product(channels=(1024, 256)))
    cfg = best(few)
    assert cfg.split_k > 1
    whole = min(clocks(few, other) for other in candidates(few) if other.split_k == 1)
    assert clocks(few, cfg) < 0.8 * whole
    assert work.workspace_bytes(few, cfg) == cfg.split_k * 4 * 2 * 7 * 7 * 256
    many = Problem.of(product(channels=(1024, 256), batch=256))
    assert {cfg.split_k for cfg in candidates(many)} == {1}
    assert work.workspace_bytes(many, best(many)) == 0


def test_taps_become_output_channels_where_these_are_few():
    few = Problem.of(product(channels=(128, 3), size=(32, 32), batch=128, input_dilation=2))
    cfg = best(few)
    assert cfg.col2im_dims > 0
    without = min(clocks(few, other) for other in candidates(few) if not other.col2im_dims)
    assert clocks(few, cfg) < 0.7 * without
    sums = few.out_channels * (9 if cfg.col2im_dims == 2 else 3)
    assert work.workspace_bytes(few, cfg) == 4 * 128 * 32 * (32 if cfg.col2im_dims == 2 else 63) * sums
    enough = dataclasses.replace(few, out_channels=16)
    assert {cfg.col2im_dims for cfg in candidates(enough)} == {0}

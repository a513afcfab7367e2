"""Candidates of the depthwise kernel: legal ones, not too many, and what is chosen among them."""

import random
import time

import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.depthwise import DEPTHWISE, work
from pallas_conv.kernels.depthwise.legal import illegal
from pallas_conv.kernels.depthwise.plan import Problem
from pallas_conv.kernels.depthwise.search import candidates, least
from pallas_conv.kernels.depthwise.tiling import tiling
from pallas_conv.kernels.gpu import H100_SMS, Gpu
from tests.kernels.depthwise.proving import depthwise, some_product
from workloads.ladder import depthwise as ladder
from workloads.served import served

LAYERS = served(DEPTHWISE)


@pytest.mark.parametrize("name", LAYERS)
def test_candidates_of_the_suite(name):
    problem = Problem.of(LAYERS[name])
    start = time.process_time()
    found = list(candidates(problem))
    assert time.process_time() - start < 10
    assert (4 if problem.backward else 8) <= len(found) == len(set(found)) <= 1500
    assert all(illegal(problem, cfg) is None for cfg in found[::7])


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_chosen_executes_and_loads_little_in_vain(name):
    """Ragged tiles are executed whole. What is loaded again was loaded by neighbours, and is in L2."""
    problem, cfg = Problem.of(LAYERS[name]), serve.choose(LAYERS[name])
    assert work.executed_macs(problem, cfg) <= 1.5 * work.useful_macs(problem)
    partner = problem.backward * work.elements(problem) * problem.itemsize
    assert work.loaded_bytes(problem, cfg) <= 6.5 * (work.pixel_bytes(problem) + partner)


@pytest.mark.parametrize("case", [rung.cases[-1] for rung in ladder.LADDER], ids=str)
def test_what_is_chosen_is_legal(case):
    """There are candidates for all products that are served, small ones too."""
    problem = Problem.of(case.product)
    assert illegal(problem, least(problem)) is None
    assert illegal(problem, serve.choose(case.product)) is None


@pytest.mark.parametrize("num_sms", [1, 2, 132])
def test_no_more_blocks_than_strips_or_than_a_chip_holds(num_sms):
    for channels in (16, 512):
        p = depthwise("fprop", 8, channels, (28, 28), 3, 1, 1)
        cfg = serve.choose(p, Gpu(num_sms))
        t = tiling(Problem.of(p), cfg)
        assert 0 < t.workers(num_sms) <= min(max(num_sms * cfg.ctas_per_sm, t.channel_blocks), t.strips)
        assert t.workers(num_sms) % t.channel_blocks == 0


@pytest.mark.parametrize("seed", range(60))
def test_there_are_candidates_for_whatever_is_served(seed):
    problem = Problem.of(some_product(random.Random(f"candidates {seed}")))
    assert next(candidates(problem), None) is not None


def test_one_image_may_keep_a_chip_busy():
    for channels, size in ((64, (112, 112)), (32, (224, 224))):
        problem = Problem.of(depthwise("fprop", 1, channels, size, 3, 1, 1))
        assert max(tiling(problem, cfg).workers(H100_SMS) for cfg in candidates(problem)) >= 120


def test_rows_of_channels_are_whole_lines_of_memory():
    """128 bytes at least, where there are so many channels."""
    for dtype, warpgroups in (("bfloat16", 2), ("float32", 1)):
        found = candidates(Problem.of(depthwise("fprop", 8, 128, (28, 28), 3, 1, 1, dtype=dtype)))
        assert min(cfg.channel_warpgroups for cfg in found) == warpgroups
    few = candidates(Problem.of(depthwise("fprop", 8, 32, (28, 28), 3, 1, 1)))
    assert {cfg.channel_warpgroups for cfg in few} == {1}

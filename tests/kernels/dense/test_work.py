"""The work of the dense kernel, as it is counted and as it is modelled, against the definition and each other."""

import collections
import random

import pytest

from pallas_conv.kernels import chips, cost
from pallas_conv.kernels.dense import work
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.gpu import H100_SMS
from tests.kernels import cases
from tests.kernels.geometries import pairs
from tests.kernels.products import PRODUCTS, posed, product, some
from workloads.ladder import dense as ladder


def test_skipped_taps_are_counted_at_the_ends_alone():
    """Skipped taps that are counted at the ends alone are those of every tile's span, in the time of a few."""
    random_, found = random.Random(0), collections.Counter()
    pick = random_.randint
    for _ in range(500):
        kernel, dilation = pick(1, 7), pick(1, 20)
        changes = {"kernel": kernel, "dilation": dilation, "stride": pick(1, 3), "input_dilation": pick(1, 3)}
        size, padding = (pick(5, 90) + dilation * (kernel - 1),), ((pick(-2, 30), pick(-2, 30)),)
        p = cases.product(random_.choice(("fprop", "dgrad")), 1, (16, 16), size, padding=padding, **changes)
        (d,), extent = Problem.of(p).dims, 2 ** pick(0, 7)
        spans = [[d.span(i, q, q + extent - 1) for q in range(0, d.rows, extent)] for i in range(d.out_stride)]
        skipped = [sum(n - (b - a) for a, b in of_phase) for n, of_phase in zip(d.count, spans, strict=True)]
        assert work.skipped_taps(d, extent) == skipped
        found[sum(skipped) > 0] += 1
    assert min(found[True], found[False]) > 50


def test_pixels_that_no_tap_reads_are_not_counted():
    for changes in (
        {},
        {"stride": 2},
        {"kernel": 1, "stride": 2},
        {"kernel": 2, "stride": 3, "dilation": 2, "padding": 1},
    ):
        for role in ("fprop", "dgrad"):
            one = Problem.of(product(role=role, size=(31, 20), **changes))
            read = [len({j for _, j, _ in pairs(d)}) for d in one.dims]
            assert work.pixel_bytes(one) == 2 * 2 * 64 * read[0] * read[1]


@pytest.mark.parametrize("case", ladder.CASES, ids=str)
def test_executed_covers_what_reads_the_input(case):
    """Every multiply-add that reads the input is executed; what is executed in vain is bounded by the ragged tiles."""
    cfg = case.config
    problem = Problem.of(case.product).under(cfg)
    reading = problem.batch * problem.groups * problem.in_channels * problem.out_channels
    for dim in problem.dims:
        reading *= sum(1 for _ in pairs(dim))
    executed = work.executed_macs(problem, cfg)
    assert reading <= executed
    assert reading <= work.useful_macs(problem)
    t = tiling(problem, cfg)
    whole = case.config.tile_n * t.n_tiles * cfg.tile_k * t.k_steps * problem.groups
    for n, extent in zip((problem.batch, *(d.rows for d in problem.dims)), t.cta_pixels, strict=True):
        whole *= -(-n // extent) * extent
    counts = 1
    for dim in problem.dims:
        counts *= max(dim.count) * dim.out_stride
    ragged = cfg.taps_per_step * (1 + t.cta_tiles * cfg.cluster)  # a last group of taps, a last cluster without a tile
    assert executed <= whole * counts * ragged


def test_executed_is_useful_where_everything_divides():
    product = cases.product("fprop", 2, (128, 128), (16, 32), 1)
    problem = Problem.of(product)
    assert work.executed_macs(problem, Config((1, 8, 16))) == work.useful_macs(problem) == 2 * 16 * 32 * 128**2


@pytest.mark.parametrize("name", PRODUCTS)
def test_multiply_adds_of_the_model_are_those_that_the_kernel_issues(name):
    """Exactly for consumers that skip taps by themselves; others of a block, or of a cluster, share a step."""
    _, problem = posed(name)
    found = [(cfg, asked) for cfg, asked in some(name) if cfg.cluster * tiling(problem, cfg).cta_tiles == 1]
    assert found
    for cfg, asked in found:
        assert cost.executed(asked) == pytest.approx(work.executed_macs(problem, cfg), rel=1e-9)


@pytest.mark.parametrize("name", PRODUCTS)
def test_no_estimate_beats_the_chip(name):
    """Tensor cores at their peak, least traffic at the rate of global memory; on every plausible chip."""
    _, problem = posed(name)
    for cfg, asked in some(name):
        skipped = min(1.0, work.executed_macs(problem, cfg) / work.useful_macs(problem))
        for chip in chips.chips():
            clocks, macs = cost.clocks(asked, chip), cost.executed(asked)
            assert clocks > 2 * macs / (cost.flops_per_clock(problem.itemsize, chip) * H100_SMS)
            assert clocks > skipped * work.least_bytes(problem) / cost.dram_bytes_per_clock(chip)

"""The tile that a product gets: its work as counted, its cost as modelled, and the choice by least worst regret."""

import collections
import dataclasses
import functools
import random

import pytest

from pallas_conv.kernels import chips, choice, config, cost, work
from tests.kernels import cases
from workloads import ladder

BASE = {"role": "fprop", "batch": 2, "channels": (64, 64), "size": (9, 9), "kernel": 3}
PROBLEMS = {
    "halo": {"batch": 16, "channels": (128, 128), "size": (64, 64), "padding": 1},
    "few_channels": {"batch": 64, "channels": (3, 64), "size": (64, 64), "stride": 2, "padding": 1},
    "few_tiles": {"channels": (1024, 256)},
    "uneven_phases": {"role": "dgrad", "batch": 64, "channels": (64, 128), "size": (32, 32), "stride": 2, "padding": 1},
    "volume": {"channels": (64, 64), "size": (16, 32, 32), "padding": 1},
    "line_f32": {"batch": 8, "channels": (96, 96), "size": (4096,), "dtype": "float32"},
    "residual": {"batch": 16, "channels": (64, 256), "size": (56, 56), "kernel": 1, "residual": True},
}  # fmt: skip
NOMINAL = chips.chips()[0]


def product(**changes):
    return cases.product(**{**BASE, **changes})


def problem(name):
    return config.Problem.of(product(**PROBLEMS[name]))


@functools.cache
def some(name):
    """A few of a problem's candidates."""
    return random.Random(name).sample(list(choice.candidates(problem(name))), 30)


@pytest.mark.parametrize("case", ladder.CASES, ids=str)
def test_what_is_chosen_is_legal(case):
    assert config.illegal(config.Problem.of(case.product), choice.choose(case.product)) is None


def test_skipped_taps_are_counted_at_the_ends_alone():
    """As by every tile's span, in the time of a few."""
    random_, found = random.Random(0), collections.Counter()
    pick = random_.randint
    for _ in range(500):
        kernel, dilation = pick(1, 7), pick(1, 20)
        changes = {"kernel": kernel, "dilation": dilation, "stride": pick(1, 3), "input_dilation": pick(1, 3)}
        size, padding = (pick(5, 90) + dilation * (kernel - 1),), ((pick(-2, 30), pick(-2, 30)),)
        p = cases.product(random_.choice(("fprop", "dgrad")), 1, (16, 16), size, padding=padding, **changes)
        (d,), extent = config.Problem.of(p).dims, 2 ** pick(0, 7)
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
            one = config.Problem.of(product(role=role, size=(31, 20), **changes))
            read = [len({j for _, j, _ in d.pairs()}) for d in one.dims]
            assert work.pixel_bytes(one) == 2 * 2 * 64 * read[0] * read[1]


@pytest.mark.parametrize("num_sms", [1, 2, 132])
def test_no_more_blocks_than_tiles_or_than_a_chip_holds(num_sms):
    for channels in ((64, 16), (512, 512)):
        problem = config.Problem.of(product(channels=channels))
        cfg = choice.best(problem, num_sms)
        blocks = config.workers(problem, cfg, num_sms) * cfg.cluster
        assert 0 < blocks <= num_sms * cfg.blocks
        assert config.workers(problem, cfg, num_sms) <= config.units(problem, cfg)


def test_a_residual_has_buffers_to_be_loaded_ahead():
    assert choice.choose(product(residual=True, bias=True)).out_bufs > 1  # beside three stages of a halo
    assert choice.choose(product(residual=True, channels=(64, 256), kernel=1, padding=0)).out_bufs > 2


def test_few_tiles_are_split():
    few = config.Problem.of(product(channels=(1024, 256)))
    cfg = choice.best(few)
    assert cfg.split > 1
    whole = min(cost.estimate(few, other).clocks for other in choice.candidates(few) if other.split == 1)
    assert cost.estimate(few, cfg).clocks < 0.8 * whole
    assert work.workspace_bytes(few, cfg) == cfg.split * 4 * 2 * 7 * 7 * 256
    many = config.Problem.of(product(channels=(1024, 256), batch=256))
    assert {cfg.split for cfg in choice.candidates(many)} == {1}
    assert work.workspace_bytes(many, choice.best(many)) == 0


def test_few_output_channels_are_folded():
    few = config.Problem.of(product(channels=(128, 3), size=(32, 32), batch=128, input_dilation=2))
    cfg = choice.best(few)
    assert cfg.fold > 0
    unfolded = min(cost.estimate(few, other).clocks for other in choice.candidates(few) if not other.fold)
    assert cost.estimate(few, cfg).clocks < 0.7 * unfolded
    sums = few.K * (9 if cfg.fold == 2 else 3)
    assert work.workspace_bytes(few, cfg) == 4 * 128 * 32 * (32 if cfg.fold == 2 else 63) * sums
    enough = dataclasses.replace(few, K=16)
    assert {cfg.fold for cfg in choice.candidates(enough)} == {0}


@pytest.mark.parametrize("name", PROBLEMS)
def test_multiply_adds_of_the_model_are_those_that_the_kernel_issues(name):
    """Exactly for consumers that skip taps by themselves; others of a block, or of a cluster, share a step."""
    found = [cfg for cfg in some(name) if cfg.cluster * config.tiling(problem(name), cfg).tiles == 1]
    assert found
    for cfg in found:
        modelled = cost.estimate(problem(name), cfg).macs
        assert modelled == pytest.approx(work.executed_macs(problem(name), cfg), rel=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_estimate_beats_the_chip(name):
    """Tensor cores at their peak, least traffic at the rate of global memory; on every plausible chip."""
    for cfg in some(name):
        for chip in chips.chips():
            clocks, macs = cost.estimate(problem(name), cfg, chip=chip)
            assert clocks > 2 * macs / (cost.flops_per_clock(problem(name).itemsize, chip) * config.H100_SMS)
            skipped = min(1.0, work.executed_macs(problem(name), cfg) / work.useful_macs(problem(name)))
            assert clocks > skipped * work.least_bytes(problem(name)) / cost.dram_bytes_per_clock(chip)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(chips.Chip) if f.name != "clock"])
def test_a_worse_chip_is_never_faster(field):
    """And some product is slower on it: every constant counts."""
    value = getattr(NOMINAL, field)
    more_is_better = field in (*chips.RATES, "l2_merge")
    worse = dataclasses.replace(NOMINAL, **{field: value / 2 if more_is_better else 2 * value + 200})
    slower = 0
    for name in PROBLEMS:
        for cfg in some(name):
            was, now = (cost.estimate(problem(name), cfg, chip=chip).clocks for chip in (NOMINAL, worse))
            assert now >= was * (1 - 1e-9), (name, str(cfg))
            slower += now > was
    assert slower


def test_worst_regrets():
    times = [[1.0, 4.0], [2.0, 2.0], [1.5, 3.0]]
    assert choice.worst_regrets(times) == [2.0, 2.0, 1.5]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Takes the place of the shipped constants: the nominal chip, the plausible ones, and these measured devices."""

    def put(*measured):
        chips.write(chips.load(chips.CHIPS)._replace(measured=measured), tmp_path / "chips.json")
        monkeypatch.setattr(chips, "CHIPS", tmp_path / "chips.json")
        chips.chips.cache_clear()

    yield put
    monkeypatch.undo()
    chips.chips.cache_clear()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_choice_is_of_least_worst_regret(name, table):
    """Over all candidates, whose price on all chips the choice itself looks up for the likely ones alone."""
    table()
    found = [work.count(problem(name), cfg) for cfg in choice.candidates(problem(name))]
    fewest = min(map(cost.executed, found))
    found = [one for one in found if cost.executed(one) <= 1.5 * fewest]
    regrets = choice.worst_regrets([[cost.clocks(one, chip) for chip in chips.chips()] for one in found])
    chosen = choice.best(problem(name))
    assert dict(zip([one.cfg for one in found], regrets, strict=True))[chosen] <= choice.CLOSE * min(regrets)


def test_a_measured_device_replaces_all_guesses(table):
    table()
    guesses = chips.chips(132)
    table(chips.Measured("NVIDIA H100 PCIe", 114, {"l2_clk": 24, "l2_merge": 0}, "run.jsonl"))
    (found,) = chips.chips(None, "NVIDIA H100 PCIe")
    assert found == dataclasses.replace(NOMINAL, l2_clk=24, l2_merge=0)
    assert chips.chips(114, "another kind of as many SMs") == (found,)
    assert chips.chips(132, "NVIDIA H100 80GB HBM3") == guesses
    assert len(guesses) > 3
    name = "halo"
    chosen = choice.best(problem(name), 114, "NVIDIA H100 PCIe")
    found = [work.count(problem(name), cfg, 114) for cfg in choice.candidates(problem(name), 114)]
    assert cost.estimate(problem(name), chosen, 114).clocks <= choice.CLOSE * min(
        cost.clocks(w, NOMINAL) for w in found
    )

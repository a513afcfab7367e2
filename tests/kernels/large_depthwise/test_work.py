"""The plan of the large-kernel depthwise kernel: its candidates, its rules, and its work, against the definition."""

import dataclasses
import itertools
import random
import time

import jax
import jax.numpy as jnp
import pytest

from pallas_conv.kernels import chips, cost, serve
from pallas_conv.kernels.gpu import ANY_HOPPER, Gpu
from pallas_conv.kernels.large_depthwise import LARGE_DEPTHWISE, work
from pallas_conv.kernels.large_depthwise.legal import illegal
from pallas_conv.kernels.large_depthwise.plan import CHANNELS, MOST_WAVES, ROWS, Config, Problem, tiling, waves
from pallas_conv.kernels.large_depthwise.schedule import Schedule
from pallas_conv.kernels.large_depthwise.search import candidates, least
from tests.kernels.large_depthwise.proving import generated, large, some_product
from workloads.ladder import large_depthwise as ladder
from workloads.served import served

LAYERS = served(LARGE_DEPTHWISE)
EVERY = [*(rung.cases[-1] for rung in ladder.LADDER), *map(generated, range(12))]


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (Config(24, 8), "multiple of 16"),
        (Config(0, 8), "multiple of 16"),
        (Config(32, 12), "multiple of 8"),
        (Config(32, 8, 0), "cfg.stages=0"),
        (Config(32, 8, 33), "cfg.stages=33"),
        (Config(256, 8), "at most 256 columns"),
        (Config(96, 40), "registers must be at most 168"),
        (Config(64, 8, 12), "smem_bytes="),
    ],
    ids=str,
)
def test_illegal(cfg, words):
    assert words in (illegal(Problem.of(large("fprop", 2, 16, (56, 200), 31, 1, 15)), cfg) or "")


@pytest.mark.parametrize("name", LAYERS)
def test_candidates_of_the_suite(name):
    problem, start = Problem.of(LAYERS[name]), time.process_time()
    found = list(candidates(problem))
    assert time.process_time() - start < 5
    assert 4 <= len(found) == len(set(found)) <= 500
    assert all(illegal(problem, cfg) is None for cfg in found)


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_chosen_executes_and_loads_little_in_vain(name):
    problem, cfg = Problem.of(LAYERS[name]), serve.choose(LAYERS[name])
    assert work.executed_macs(problem, cfg) <= 1.7 * work.useful_macs(problem)
    assert work.loaded_bytes(problem, cfg) <= 2.5 * work.least_bytes(problem)


@pytest.mark.parametrize("seed", range(40))
def test_there_are_candidates_for_whatever_is_served(seed):
    problem = Problem.of(some_product(random.Random(f"candidates {seed}")))
    assert next(candidates(problem), None) is not None
    assert illegal(problem, least(problem)) is None


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_every_strip_comes_once_and_reads_all_rows_it_needs(case):
    t = tiling(Problem.of(case.product), case.config)
    schedule, cfg = Schedule(t, case.num_sms), case.config
    counts = [int(schedule.strips_of(jnp.int32(worker))) for worker in range(schedule.workers)]
    assert sum(counts) == t.strips
    images, down, across, blocks = t.grid
    wanted = itertools.product(
        range(images),
        range(0, down * cfg.strip_rows, cfg.strip_rows),
        range(0, across * cfg.columns, cfg.columns),
        range(0, blocks * CHANNELS, CHANNELS),
    )
    at = jnp.array([(worker, i) for worker, count in enumerate(counts) for i in range(count)], jnp.int32)
    strips = jax.vmap(lambda where: schedule.strip(where[0], where[1]))(at)
    assert sorted(zip(*(part.tolist() for part in strips[:4]), strict=True)) == sorted(wanted)
    read = [jnp.broadcast_to(part, len(at)).tolist() for part in strips.rows]
    rows, (first_tap, _) = t.problem.dims[0], t.problem.first
    for row, *found in zip(strips.row.tolist(), *read, strict=True):
        assert tuple(found) == t.rows_read(row)
        top, first, last, late = found
        last_output = min(row + cfg.strip_rows, rows.out_size)
        needed = range(max(0, row + first_tap), min(rows.in_size, last_output + first_tap + t.problem.taps[0] - 1))
        assert {(j - top) // ROWS for j in needed} <= set(range(first, last))
        assert 0 <= first < last <= t.chunks
        # Eights of the cotangent that chunk 0 meets are there before it is multiplied.
        assert late >= min((top - row - first_tap + ROWS - 1) // ROWS, t.output_tiles - 1) * t.problem.weight_sums


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_blocks_are_as_many_for_each_block_of_channels(case):
    t = tiling(Problem.of(case.product), case.config)
    for num_sms in (1, 2, 132):
        workers = t.workers(num_sms)
        assert 0 < workers <= min(max(MOST_WAVES * num_sms, t.problem.channel_blocks), t.strips)
        assert workers % t.problem.channel_blocks == 0


@pytest.mark.parametrize("channels", [128, 384, 544, 768, 1536, 2048])
def test_few_multiprocessors_idle(channels):
    t = tiling(Problem.of(large("fprop", 64, channels, (28, 28), 31, 1, 15)), Config(32, 32))
    workers = t.workers(132)
    turns = waves(workers, 132) * -(-t.strips // workers)
    assert t.strips >= 0.8 * 132 * turns
    assert work.count(t.problem, t.cfg).rounds[0][0] == turns


def test_shared_memory_has_no_bank_conflicts():
    """Eight rows, and eight channels, begin in eight different places of 16 bytes of the 128 that banks have."""
    for case in EVERY:
        t = tiling(Problem.of(case.product), case.config)
        shapes = [(t.pixel_shape, 2), (t.result_shape, t.problem.out_itemsize)]
        shapes += [(t.right_shape, 2)] if t.problem.weight_sums else []
        for (_, rows, columns), itemsize in shapes:
            assert {i * rows * columns * itemsize % 128 for i in range(8)} == set(range(0, 128, 16))
        for (_, _, columns), itemsize in (*shapes, (t.right_shape, 2)):
            assert {i * columns * itemsize % 128 for i in range(8)} == set(range(0, 128, 16))


def test_bytes():
    problem = Problem.of(large("fprop", 2, 20, (19, 40), 11, out_dtype="float32", outputs=("y", "z")))
    x, y = 2 * 20 * 19 * 40, 2 * 20 * 9 * 30
    assert work.least_bytes(problem) == 2 * x + 2 * 4 * y + 2 * 20 * 121
    assert work.copied_bytes(problem) == (2 * (x + x * 24 // 20), 0)
    problem = Problem.of(large("wgrad", 2, 20, (19, 40), 11, outputs=("dw", "db")))
    assert work.copied_bytes(problem) == (2 * (x + y + (x + y) * 24 // 20), 0)
    t = tiling(problem, Config(32, 16))
    assert (t.workers(6), t.parts(6)) == (6, 2)
    assert work.partial_bytes(t, Gpu(6)) == 6 * 4 * (2 * 2 * 64 * 8 + 128)
    assert work.count(problem, t.cfg, Gpu(6)).after_bytes == 2 * work.partial_bytes(t, Gpu(6))


@pytest.mark.parametrize("name", LAYERS)
def test_the_model(name):
    """Never below the floor, longer with less bandwidth, and as much work as is counted."""
    problem, cfg = Problem.of(LAYERS[name]), serve.choose(LAYERS[name])
    counted = work.count(problem, cfg)
    chip = chips.chips(ANY_HOPPER)[0]
    clocks = cost.clocks(counted, chip)
    macs = work.executed_macs(problem, cfg) * work.TENSOR_MACS
    assert cost.executed(counted) == pytest.approx(macs, rel=0.01)
    assert clocks > 2 * macs / (cost.flops_per_clock(2, chip) * counted.sms)
    assert clocks > work.least_bytes(problem) / cost.dram_bytes_per_clock(chip)
    assert cost.clocks(counted, dataclasses.replace(chip, smem_clk=chip.smem_clk / 2)) > clocks

"""The work of the pointwise kernel, as it is counted, against the definition and the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import cost
from pallas_conv.kernels.chips import chips
from pallas_conv.kernels.gpu import ANY_HOPPER
from pallas_conv.kernels.pointwise import search, work
from pallas_conv.kernels.pointwise.operands import Views
from pallas_conv.kernels.pointwise.plan import Config, Problem, tiling
from pallas_conv.kernels.pointwise.schedule import Schedule
from tests.kernels import cases
from tests.kernels.pointwise.proving import generated
from workloads.ladder import pointwise as ladder
from workloads.ladder.pointwise import ALL, bwd

EVERY = [*(rung.cases[-1] for rung in ladder.LADDER), *map(generated, range(12))]


def schedule_of(case) -> Schedule:
    t = tiling(Problem.of(case.product), case.config)
    return Schedule(Views(t, jnp.dtype("bfloat16"), jnp.dtype("bfloat16"), interpret=True))


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_parts_take_every_step_of_every_example_and_tile_once(case):
    schedule = schedule_of(case)
    t = schedule.tiling
    parts = jax.vmap(schedule.part)(jnp.arange(t.blocks))
    seen = [
        (int(example), int(tile), step)
        for _, example, tile, first, count in zip(*map(np.asarray, parts), strict=True)
        for step in range(first, first + count)
    ]
    assert len(seen) == len(set(seen)) == work.all_steps(t)
    assert int(parts.steps.min()) >= 1
    assert int(parts.steps.max()) == -(-t.steps // t.cfg.split_k)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_no_work_is_less_than_the_definition_wants(case):
    problem = Problem.of(case.product)
    assert work.useful_macs(problem) == 2 * cases.useful(case.product)
    assert work.executed_macs(problem, case.config) >= work.useful_macs(problem)
    assert work.loaded_bytes(problem, case.config) >= work.operand_bytes(problem)
    counted = work.count(problem, case.config)
    assert cost.executed(counted) == work.executed_macs(problem, case.config)


def test_least_bytes():
    """x, the cotangent and what was saved once, dx once, weights, and their gradients in float32."""
    layer = bwd(2, (24, 40), (7, 9), outputs=ALL, activation="silu", out_dtype="float32", models=3)
    pixels, weights = 3 * 126, 3 * 24 * 40
    assert work.least_bytes(Problem.of(layer)) == pixels * (24 * 2 + 80 * 2 + 24 * 4) + weights * 6 + 3 * 40 * 4


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize("channels", [(64, 64), (64, 256), (24, 144), (128, 128), (128, 256)])
def test_no_modelled_time_is_below_that_of_the_bytes(channels, activation):
    problem, chip = Problem.of(bwd(64, channels, (56, 56), outputs=ALL, activation=activation)), chips()[0]
    least = work.least_bytes(problem) / cost.dram_bytes_per_clock(chip)
    for cfg in search.candidates(problem):
        assert cost.clocks(work.count(problem, cfg, ANY_HOPPER), chip) >= least


def test_padded_channels_are_copied():
    """Before, x and two arrays like the cotangent; after, dx."""
    layer = bwd(2, (9, 20), (7, 9), activation="relu")
    counted = work.count(Problem.of(layer), Config((1, 8, 16)))
    assert counted.before_bytes == 126 * 2 * (9 + 16 + 2 * (20 + 24))
    sums = 2 * 64 * 64 * 4  # of two consumers, written and read
    assert counted.after_bytes == 126 * 2 * (9 + 16) + 2 * sums

"""The order of the dense kernel's work: every tile once, every channel in one part, as many steps as are counted."""

import itertools

import jax.numpy as jnp
import pytest

from pallas_conv.kernels.dense import work
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.dense.schedule import Schedule, Tile
from tests.kernels import cases
from workloads.ladder import dense as ladder


def schedule_of(product, config, num_sms):
    return Schedule(tiling(Problem.of(product), config), num_sms)


def tiles_in_turn(schedule: Schedule) -> list[Tile]:
    """The first tile of each worker, then the second of each, and so on."""
    counts = [int(schedule.tiles_of(worker)) for worker in range(schedule.workers)]
    assert sum(counts) == schedule.tiling.work_tiles
    turns = itertools.product(range(max(counts)), range(schedule.workers))
    return [schedule.tile(jnp.int32(worker), jnp.int32(i)) for i, worker in turns if i < counts[worker]]


def indices(tile: Tile) -> tuple[int, ...]:
    return tuple(map(int, (*tile.phase, tile.k_part, tile.group, tile.n_tile, tile.m_tile)))


def test_waves_are_of_one_phase():
    """The example that `Schedule.tile` gives."""
    product = cases.product("fprop", 1, (16, 16), (320,), 2, 1, 1, input_dilation=2)
    schedule = schedule_of(product, Config((1, 64), 16, tile_k=16, mma_warpgroups=1), num_sms=3)
    found = [(phase, unit) for phase, *_, unit in map(indices, tiles_in_turn(schedule))]
    wave = lambda phase, *units: [(phase, unit) for unit in units]
    assert found == [*wave(0, 0, 1, 2), *wave(1, 0, 1, 2), *wave(0, 3, 4), *wave(1, 3, 4)]


@pytest.mark.parametrize("rung", ladder.LADDER, ids=lambda rung: rung.feature)
def test_every_tile_comes_once_with_the_steps_that_are_counted(rung):
    for case in rung.cases[:3]:
        schedule = schedule_of(case.product, case.config, case.num_sms)
        t, cfg, problem = schedule.tiling, schedule.cfg, schedule.problem
        found = tiles_in_turn(schedule)
        phases, others = [d.out_stride for d in problem.dims], [cfg.split_k, problem.groups, t.n_tiles]
        units = t.work_tiles // (problem.phases * cfg.split_k * problem.groups * t.n_tiles)
        assert sorted(map(indices, found)) == list(itertools.product(*map(range, [*phases, *others, units]))), case.name
        steps = sum(int(schedule.steps(tile, schedule.tap_spans(tile))) for tile in found)
        macs = cfg.cluster * cfg.mma_warpgroups * cfg.tile_m * cfg.tile_n * cfg.tile_k * cfg.taps_per_step * t.halo_taps
        assert steps * macs == work.executed_macs(t.raw, cfg), case.name


@pytest.mark.parametrize("split", [1, 2, 3, 7])
def test_parts_have_all_channel_steps_and_as_many_each_but_for_one(split):
    schedule = schedule_of(
        cases.product("fprop", 1, (112, 16), (64,), 1),
        Config((1, 64), 16, tile_k=16, split_k=split, mma_warpgroups=1),
        1,
    )
    spans = {int(tile.k_part): schedule.channel_span(tile) for tile in tiles_in_turn(schedule)}
    steps = [list(range(int(spans[part].first), int(spans[part].last))) for part in range(split)]
    assert [c for part in steps for c in part] == list(range(7))
    assert max(map(len, steps)) - min(map(len, steps)) <= 1

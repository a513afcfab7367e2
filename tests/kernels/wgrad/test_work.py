"""The work of the weight-gradient kernel, as it is counted and as it is modelled, against the definition and the schedule."""

import functools
import itertools
import math
import random

import jax
import jax.numpy as jnp
import pytest

from pallas_conv.kernels import chips, cost
from pallas_conv.kernels.gpu import ANY_HOPPER, H100_SMS
from pallas_conv.kernels.wgrad import work
from pallas_conv.kernels.wgrad.plan import Config, M, Problem, tiling
from pallas_conv.kernels.wgrad.schedule import Schedule, Tile
from pallas_conv.kernels.wgrad.search import candidates
from tests.kernels import cases
from tests.kernels.geometries import definition, pairs
from tests.kernels.wgrad.proving import generated
from workloads.ladder import wgrad as ladder

EVERY = [*(rung.cases[-1] for rung in ladder.LADDER), *map(generated, range(12))]
p = functools.partial(cases.product, "wgrad")
PRODUCTS = {
    "halo": p(16, (128, 128), (64, 64), 3, 1, 1),
    "few channels": p(64, (3, 64), (64, 64), 7, 2, 3),
    "few pixels": p(8, (512, 512), (7, 7), 3, 1, 1),
    "volume": p(2, (64, 64), (16, 32, 32), 3, 1, 1),
    "transposed": p(16, (64, 64), (32, 32), 4, 1, 2, input_dilation=2),
    "transposed, no overlap": p(4, (128, 128), (16, 16, 32), 2, 1, 1, input_dilation=2),
    "stride": p(32, (256, 256), (56, 56), 3, 2, 1),
    "stride without overlap": p(32, (192, 384), (28, 28), 2, 2),
    "stride larger than the kernel": p(32, (512, 1024), (28, 28), 1, 2),
    "stride and dilation": p(32, (64, 128), (57, 57), 3, 2, 2, 2),
    "line in float32": p(8, (96, 96), (4096,), 3, 1, 1, dtype="float32"),
}


def schedule_of(case) -> Schedule:
    return Schedule(tiling(Problem.of(case.product), case.config), case.num_sms)


def tiles(schedule: Schedule) -> list[Tile]:
    """The tiles of all workers, of the first block of each cluster, as numbers in arrays."""
    counts = [int(schedule.tiles_of(worker)) for worker in range(schedule.workers)]
    assert sum(counts) == schedule.tiling.work_tiles
    at = jnp.array([(worker, i) for worker, count in enumerate(counts) for i in range(count)], jnp.int32)
    return Tile(*jax.vmap(lambda where: jnp.stack(schedule.tile(where[0], where[1], jnp.int32(0))), out_axes=1)(at))


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_every_tile_comes_once_with_the_steps_that_are_counted(case):
    schedule = schedule_of(case)
    t, found = schedule.tiling, tiles(schedule)
    shared = {"x": (1, 2), "dy": (2, 1), "": (1, 1)}[schedule.cfg.multicast]
    each = [schedule.cfg.split_k, t.problem.examples, t.problem.groups, t.tap_tiles]
    each += [range(0, t.n_tiles, shared[0]), range(0, t.m_tiles, shared[1])]
    wanted = itertools.product(*(range(n) if isinstance(n, int) else n for n in each))
    assert sorted(zip(*(row.tolist() for row in found), strict=True)) == list(wanted)
    steps = jax.vmap(lambda *tile: schedule.reduction(Tile(*tile)).steps.count)(*found)
    assert int(steps.min()) >= 0
    assert int(steps.sum()) == work.all_steps(t.raw, case.config)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_boxes_hold_every_pair_of_pixels_that_meet(case):
    """Every dimension by itself: outputs that a tap of the tile reads anything for lie in a box that is walked."""
    t = tiling(Problem.of(case.product), case.config)
    for i, (axis, extent) in enumerate(zip(t.problem.dims, case.config.step_pixels[1:], strict=True)):
        for low in range(axis.count[0]):
            high = min(low + (t.halo_taps if i == t.halo_dim else 1), axis.count[0]) - 1
            first, last = axis.outputs(low, high)
            walked = range(first // extent * extent, -(-last // extent) * extent)
            read = [o for o, _, tap in pairs(axis) if axis.order.index(tap) in range(low, high + 1)]
            assert set(read) <= set(walked)
            assert not read or (first, last) == (min(read), max(read) + 1)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_parts_are_even(case):
    schedule = schedule_of(case)
    found = tiles(schedule)
    steps = jax.vmap(lambda *tile: jnp.stack([(s := schedule.reduction(Tile(*tile)).steps).first, s.last]))(*found)
    by_tile: dict = {}
    for part, *rest, (first, last) in zip(*(row.tolist() for row in found), steps.tolist(), strict=True):
        by_tile.setdefault(tuple(rest), {})[part] = first, last
    for parts in by_tile.values():
        bounds = [parts[k] for k in range(schedule.cfg.split_k)]
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
        counts = [last - first for first, last in bounds]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_executed_covers_what_reads_the_input(case):
    """Every multiply-add that reads the input is executed; what is executed in vain is bounded by the ragged boxes."""
    cfg, raw = case.config, Problem.of(case.product)
    t, executed = tiling(raw, cfg), work.executed_macs(raw, cfg)
    useful = cases.useful(case.product) * t.problem.terms
    assert useful <= executed
    channels = math.prod(t.out_shape[-2:]) * t.problem.groups * t.problem.examples
    boxes = t.image_steps * cfg.step_pixels[0]
    for d, e in zip(t.problem.dims, cfg.step_pixels[1:], strict=True):
        boxes *= -(-d.rows // e) * e
    assert executed <= channels * boxes * t.out_shape[1] * t.halo_taps


@pytest.mark.parametrize("seed", range(100))
def test_useful_is_the_definition(seed):
    """Every output times every tap, but for stuffed zeros, whose products are those of the transposed convolution."""
    rng = random.Random(seed)
    up = rng.choice((1, 1, 2, 3))
    product = p(
        2,
        (32, 48),
        (rng.randint(3, 9),),
        rng.randint(1, 3),
        1 if up > 1 else rng.randint(1, 3),
        ((rng.randint(0, 3), rng.randint(0, 3)),),
        rng.randint(1, 2),
        input_dilation=up,
    )
    problem = Problem.of(product)
    if math.prod(product.spec.out_spatial) and (problem.single_phase or problem.transpose().single_phase):
        (axis,) = problem.axes if problem.single_phase else problem.transpose().axes
        assert work.useful_macs(problem) == 2 * 32 * 48 * axis.out_size * len(axis.dim().order)
        assert work.useful_macs(problem) >= 2 * 32 * 48 * len(list(definition(axis)))


def test_executed_is_useful_where_everything_divides():
    problem = Problem.of(p(2, (128, 128), (16, 32), 1))
    cfg = Config((1, 8, 8), channel_loads=2, m_warpgroups=2)
    assert work.executed_macs(problem, cfg) == work.useful_macs(problem) == 2 * 16 * 32 * 128**2


def test_bytes_of_operands_and_results():
    problem = Problem.of(p(2, (64, 32), (9, 9), 3, groups=2, models=3))
    x, dy, dw = 3 * 2 * 64 * 81 * 2, 3 * 2 * 32 * 49 * 2, 3 * 32 * 32 * 9 * 2
    assert work.operand_bytes(problem) == x + dy
    assert work.least_bytes(problem) == x + dy + dw
    whole = Problem.of(p(2, (64, 32), (9, 9), 3, groups=2, models=3, dtype="float32"))
    assert work.operand_bytes(whole) == 2 * (x + dy)  # two pieces of two bytes
    assert work.least_bytes(whole) == 2 * (x + dy + dw)


def test_parts_lie_in_global_memory():
    problem = Problem.of(p(2, (64, 128), (9, 9), 3))
    t = tiling(problem, Config((1, 8, 8), taps_per_tile=2, split_k=2))
    assert work.workspace_bytes(t) == 2 * 10 * 64 * 128 * 4  # of ten places, since the last tile has two
    assert work.workspace_bytes(tiling(problem, Config((1, 8, 8)))) == 0


@pytest.mark.parametrize("name", PRODUCTS)
def test_multiply_adds_of_the_model_are_those_that_the_kernel_issues(name):
    problem = Problem.of(PRODUCTS[name])
    for cfg in list(candidates(problem))[::17]:
        asked = work.count(problem, cfg, ANY_HOPPER)
        issued = asked.all_steps * asked.cluster * asked.mma_warpgroups * asked.macs
        assert issued == work.executed_macs(problem, cfg)
        shares = asked.cluster * asked.pixel_bytes + asked.weight_bytes
        assert asked.all_steps * shares == work.loaded_bytes(problem, cfg)
        assert asked.macs % (M * cfg.tile_n * cfg.pixels) == 0


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_least_bytes_are_of_pixels_that_some_tap_reads(name):
    problem = Problem.of(PRODUCTS[name])
    p = problem if problem.single_phase else problem.transpose()
    read = math.prod(len({j for _, j, _ in pairs(d)}) for d in p.dims)
    images = p.batch * p.pieces
    x, dy = images * p.in_channels * read, images * p.out_channels * math.prod(d.out_size for d in p.dims)
    assert work.least_bytes(problem) == 2 * (x + dy) + work.result_bytes(problem)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_pixel_is_shared_by_no_more_blocks_than_load_it(name):
    """In L2 what several blocks load at once counts once; a block that loads a pixel for several taps is not several."""
    problem = Problem.of(PRODUCTS[name])
    for cfg in list(candidates(problem))[::17]:
        asked, t = work.count(problem, cfg, ANY_HOPPER), tiling(problem, cfg)
        tiles = t.work_tiles * cfg.cluster // cfg.split_k // t.problem.examples // t.problem.groups
        assert 1 <= asked.pixel_readers <= tiles // (t.m_tiles if cfg.multicast == "x" else t.n_tiles)
        loaded = asked.all_steps * asked.cluster * asked.pixel_bytes
        assert loaded / asked.pixel_readers >= min(loaded, asked.input_bytes)


@pytest.mark.parametrize("name", PRODUCTS)
def test_no_estimate_beats_the_chip(name):
    """Tensor cores at their peak, least traffic at the rate of global memory; on every plausible chip."""
    problem = Problem.of(PRODUCTS[name])
    for cfg in list(candidates(problem))[::17]:
        asked = work.count(problem, cfg, ANY_HOPPER)
        skipped = min(1.0, work.executed_macs(problem, cfg) / (work.useful_macs(problem) * problem.terms))
        for chip in chips.chips():
            clocks = cost.clocks(asked, chip)
            issued = work.executed_macs(problem, cfg)
            assert clocks > 2 * issued / (cost.flops_per_clock(2, chip) * H100_SMS)
            assert clocks > skipped * work.least_bytes(problem) / cost.dram_bytes_per_clock(chip)

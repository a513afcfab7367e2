"""The work of the depthwise kernel, as it is counted and as it is modelled, against the definition and the schedule."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import pytest

from pallas_conv.kernels import chips, cost
from pallas_conv.kernels.depthwise import work
from pallas_conv.kernels.depthwise.plan import CHANNELS, PIXELS, Config, Problem
from pallas_conv.kernels.depthwise.schedule import Schedule, Strip
from pallas_conv.kernels.depthwise.search import candidates
from pallas_conv.kernels.depthwise.tiling import tiling
from pallas_conv.kernels.gpu import ANY_HOPPER, H100_SMS, Gpu
from tests.kernels.depthwise.proving import depthwise, generated
from tests.kernels.geometries import pairs
from workloads.ladder import depthwise as ladder

EVERY = [*(rung.cases[-1] for rung in ladder.LADDER), *map(generated, range(12))]
p = functools.partial(depthwise, "fprop")
PRODUCTS = {
    "3x3": p(64, 144, (56, 56), 3, 1, 1),
    "7x7": p(64, 96, (56, 56), 7, 1, 3, bias=True),
    "5x5 s2": p(64, 240, (28, 28), 5, 2, 2),
    "gradient of 3x3 s2": depthwise("dgrad", 64, 96, (56, 56), 3, 2, 1),
    "volume": p(8, 64, (16, 28, 28), 3, 1, 1),
    "weight gradient of 7x7": depthwise("wgrad", 64, 96, (56, 56), 7, 1, 3, outputs=("dw", "db")),
    "weight gradient of a line in float32": depthwise("wgrad", 8, 256, (4096,), 4, 1, ((3, 0),), dtype="float32"),
    "backward pass of 3x3": depthwise("bwd", 64, 144, (56, 56), 3, 1, 1, outputs=("dx", "dw", "db")),
    "backward pass of 3x3 with a derivative": depthwise(
        "bwd", 64, 144, (56, 56), 3, 1, 1, outputs=("dx", "dw", "db"), activation="silu"
    ),
    "backward pass of 3x3 s2 in float32": depthwise(
        "bwd", 64, 96, (56, 56), 3, 2, 1, outputs=("dx", "dw"), dtype="float32"
    ),
    "causal line in float32": p(8, 256, (4096,), 4, 1, ((3, 0),), dtype="float32"),
}


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_every_strip_comes_once_and_covers_the_tiles(case):
    t = tiling(Problem.of(case.product), case.config)
    schedule = Schedule(t, case.num_sms)
    counts = [int(schedule.strips_of(jnp.int32(worker))) for worker in range(schedule.workers)]
    assert sum(counts) == t.strips
    at = jnp.array([(worker, i) for worker, count in enumerate(counts) for i in range(count)], jnp.int32)
    found = Strip(*jax.vmap(lambda where: jnp.stack(schedule.strip(where[0], where[1])), out_axes=1)(at))
    planes, rows, _ = case.config.tile_pixels
    images, depths, _, columns, channels = t.grid
    wanted = itertools.product(
        range(images),
        range(0, depths * planes, planes),
        range(0, t.row_tiles * rows, rows),
        range(0, columns * case.config.columns, case.config.columns),
        range(0, channels * case.config.channels, case.config.channels),
    )
    tiles = [
        (image, plane, row + i * rows, column, channel)
        for image, plane, row, column, channel, count in zip(*(part.tolist() for part in found), strict=True)
        for i in range(count)
    ]
    assert sorted(tiles) == sorted(wanted)
    assert len(tiles) == work.tiles(t)
    assert int(jax.vmap(lambda *strip: schedule.chunks(Strip(*strip)))(*found).sum()) == work.chunks(t)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_a_tile_sums_what_the_definition_does(case):
    """Every pair of an output and an input row that a tap joins is summed once, with all taps of planes and columns."""
    problem = Problem.of(case.product)
    planes, lines, columns = problem.dims
    t = tiling(problem, case.config)
    rows = case.config.tile_pixels[1]
    by_dim = [sorted(pairs(d)) for d in problem.dims]
    for tile in range(t.row_tiles):
        q0 = tile * rows
        found = set()
        for (plane, row), into in t.row_terms.items():
            for (phase, out), terms in into.items():
                p0, p1, p2 = problem.phases[phase]
                o = (q0 + out) * lines.out_stride + p1
                j = q0 * lines.in_stride + t.reaches[1].low + row
                if o < lines.out_size and 0 <= j < lines.in_size:
                    found |= {(p0, plane + t.reaches[0].low, o, j, p2, term) for term in terms}
        wanted = [pair for pair in by_dim[1] if q0 <= pair[0] // lines.out_stride < q0 + rows]
        taps = [len(d.order) for d in (planes, columns)]
        assert len(found) == len(wanted) * math.prod(taps)
        assert {(o, j) for _, _, o, j, _, _ in found} == {(o, j) for o, j, _ in wanted}


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_a_row_is_finished_after_the_last_of_its_input_rows(case):
    t = tiling(Problem.of(case.product), case.config)
    finished = {key: row for row in range(t.tile_rows) for key in t.finished_by(row)}
    assert len(finished) == len(t.problem.phases) * case.config.tile_pixels[1]
    for (_, row), into in t.row_terms.items():
        assert all(row <= finished[key] for key in into)


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_chunks_of_a_tile_hold_its_rows(case):
    t = tiling(Problem.of(case.product), case.config)
    assert t.tile_chunks * case.config.chunk_rows >= t.tile_rows
    assert t.advance * case.config.chunk_rows == case.config.tile_pixels[1] * t.problem.dims[1].in_stride
    assert t.slot_bytes % 128 == 0


def test_executed_is_useful_where_everything_divides():
    problem = Problem.of(p(2, 64, (18, 34), 3))
    cfg = Config((1, 4, 32), 2, 4, channel_warpgroups=2)
    assert work.executed_macs(problem, cfg) == work.useful_macs(problem) == 2 * 64 * 16 * 32 * 9
    t = tiling(problem, cfg)
    assert t.tile_products * PIXELS * CHANNELS == 4 * 32 * CHANNELS * 9
    assert t.tile_fragments == 2 * 6 * 3


def test_bytes_of_operands_and_results():
    problem = Problem.of(p(2, 64, (9, 20), 3, residual=True, outputs=("y", "z"), out_dtype="float32"))
    x, y, w = 2 * 64 * 9 * 20 * 2, 2 * 64 * 7 * 18 * 4, 64 * 9 * 2
    assert work.least_bytes(problem) == x + w + 3 * y
    cropped = Problem.of(p(2, 64, (9, 20), 3, 1, -1))
    assert work.pixel_bytes(cropped) == 2 * 64 * 7 * 18 * 2


def test_copies_around_the_kernel():
    copied = lambda product: work.copied_bytes(Problem.of(product))
    x, y = 2 * 180 * (20 + 24) * 2, 2 * 7 * 18 * (20 + 24) * 2
    assert copied(p(2, 64, (9, 20), 3)) == (0, 0)
    assert copied(p(2, 20, (9, 20), 3)) == (x, y)
    assert copied(p(2, 20, (9, 20), 3, residual=True)) == (x + y, y)
    assert copied(depthwise("wgrad", 2, 20, (9, 20), 3, out_dtype="float32")) == (x + y, 0)
    assert copied(depthwise("dgrad", 2, 64, (9, 20), 3, 2, 1)) == (0, 2 * 64 * 20 * (9 + 10) * 2)


def test_bytes_of_a_weight_gradient():
    problem = Problem.of(depthwise("wgrad", 2, 64, (9, 20), 3, out_dtype="float32", outputs=("dw", "db")))
    assert work.least_bytes(problem) == 2 * 64 * (9 * 20 + 7 * 18) * 2 + 64 * 9 * 4
    t = tiling(problem, Config((1, 2, 16), 1, 2, column_warpgroups=2))
    assert (t.strips, t.channel_blocks) == (2 * 2 * 2, 2)
    assert (t.parts(4), t.parts(132)) == (2 * 2, 2 * 4)
    assert work.partial_bytes(t, Gpu(4)) == 4 * 10 * 64 * 4
    assert work.count(problem, t.cfg, Gpu(4)).after_bytes == 2 * 4 * 10 * 64 * 4


def test_bytes_of_a_whole_backward_pass():
    product = depthwise("bwd", 2, 64, (9, 20), 3, 1, 1, out_dtype="float32", outputs=("dx", "dw", "db"))
    problem, image = Problem.of(product), 2 * 64 * 9 * 20
    assert work.least_bytes(problem) == image * (2 + 2 + 4) + 64 * 9 * (2 + 4)
    with_saved = Problem.of(dataclasses.replace(product, activation="silu"))
    assert work.least_bytes(with_saved) == work.least_bytes(problem) + image * 2
    t = tiling(problem, Config((1, 2, 16), 1, 2, column_warpgroups=2))
    assert work.loaded_bytes(problem, t.cfg) == work.chunks(t) * t.slot_bytes + work.tiles(t) * t.partner_bytes
    assert t.partner_bytes == 2 * 32 * (32 + 8) * 2
    assert work.count(problem, t.cfg, Gpu(4)).stored_bytes == 2 * 32 * 32 * 4
    assert work.copied_bytes(Problem.of(depthwise("bwd", 2, 20, (9, 20), 3, 1, 1, outputs=("dx", "dw")))) == (
        2 * 2 * 180 * (20 + 24) * 2,
        2 * 180 * (20 + 24) * 2,
    )


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_the_model_is_told_is_what_is_counted(name):
    problem = Problem.of(PRODUCTS[name])
    for cfg in list(candidates(problem))[::7]:
        asked, t = work.count(problem, cfg, ANY_HOPPER), tiling(problem, cfg)
        issued = t.issued_products / t.tile_products  # odd taps of weight gradients multiply zeros, too
        executed = work.executed_macs(problem, cfg) * issued * work.TENSOR_MACS[problem.itemsize]
        assert cost.executed(asked) == pytest.approx(executed, rel=1e-3)
        assert asked.all_steps * asked.pixel_bytes == pytest.approx(work.loaded_bytes(problem, cfg), rel=1e-3)
        assert sum(count for count, _ in asked.rounds) * t.workers(H100_SMS) >= work.tiles(t)


@pytest.mark.parametrize("name", PRODUCTS)
def test_no_estimate_beats_the_memory(name):
    problem = Problem.of(PRODUCTS[name])
    for cfg in list(candidates(problem))[::7]:
        asked = work.count(problem, cfg, ANY_HOPPER)
        for chip in chips.chips():
            assert cost.clocks(asked, chip) > work.least_bytes(problem) / cost.dram_bytes_per_clock(chip)

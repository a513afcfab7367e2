"""Can the proofs of the weight-gradient kernel fail? Break it in ways that are easily come by, and see each one found."""

import jax.numpy as jnp
import pytest

from pallas_conv.kernels.scalars import Span
from pallas_conv.kernels.wgrad import operands as wgrad_operands
from pallas_conv.kernels.wgrad import sm90
from pallas_conv.kernels.wgrad.schedule import Schedule
from tests.kernels.mutating import UNORDERED, WRONG, WRONG_OR_RACE, nothing, release_before_multiplying, within
from tests.kernels.proving import prove
from tests.kernels.wgrad.mutants import (
    BIAS,
    FLIPPED,
    HALO,
    MUTANT,
    PARTS,
    PIECES,
    SHARED,
    SIDE_BY_SIDE,
    SKIPPING,
    SPACE_TO_DEPTH,
    drop_a_box,
)

OTHERS = (BIAS, SPACE_TO_DEPTH, HALO, PARTS, FLIPPED, SHARED, SIDE_BY_SIDE)


@pytest.mark.parametrize(
    "case", [MUTANT, PIECES, *(pytest.param(case, marks=pytest.mark.extended) for case in OTHERS)], ids=str
)
def test_unbroken(case):
    prove(case)


def test_consumers_that_do_not_wait_for_their_loads(monkeypatch):
    within(monkeypatch, sm90._Kernel, "_consume", barrier_wait=nothing)
    with UNORDERED:
        prove(MUTANT)


def test_a_producer_that_does_not_wait_for_free_slots(monkeypatch):
    within(monkeypatch, sm90._Kernel, "_produce", barrier_wait=nothing)
    with UNORDERED:
        prove(MUTANT)


def test_a_slot_released_before_it_is_multiplied(monkeypatch):
    release_before_multiplying(monkeypatch, sm90._Kernel, MUTANT.config.stages)
    with WRONG:
        prove(MUTANT)


def test_a_dropped_box_is_wrong(monkeypatch):
    drop_a_box(monkeypatch)
    with WRONG:
        prove(MUTANT)


def test_a_box_that_two_parts_sum_is_wrong(monkeypatch):
    reduction = Schedule.reduction
    longer = lambda s: Span(jnp.maximum(s.first - 1, 0), s.last)
    monkeypatch.setattr(
        Schedule, "reduction", lambda *at: (found := reduction(*at))._replace(steps=longer(found.steps))
    )
    with WRONG:
        prove(PARTS)


def test_a_dropped_part_is_wrong(monkeypatch):
    add = wgrad_operands.add_parts
    monkeypatch.setattr(wgrad_operands, "add_parts", lambda sums, parts, axis: add(sums[: 2 * len(sums) // 3], 2, axis))
    with WRONG:
        prove(PARTS)


def test_the_taps_of_another_tile_are_wrong(monkeypatch):
    taps = Schedule.taps
    monkeypatch.setattr(Schedule, "taps", lambda self, tile, u: taps(self, tile._replace(tap_tile=jnp.int32(0)), u))
    with WRONG:
        prove(MUTANT)


def test_taps_in_the_order_of_the_offsets_instead_of_the_kernel(monkeypatch):
    monkeypatch.setattr(wgrad_operands, "reordered", lambda w, axis, order: w)
    with WRONG:
        prove(FLIPPED)


@pytest.mark.parametrize(
    ("case", "change"),
    [
        (HALO, lambda product: product._replace(halo_tap=0)),
        (HALO, lambda product: product._replace(load=product.load * 0)),
        (MUTANT, lambda product: product._replace(load=0)),
    ],
    ids=["tap of a halo", "load of a consumer", "load of a tap"],
)
def test_another_operand_is_wrong(monkeypatch, case, change):
    multiply = sm90._Kernel._multiply
    others = lambda self, accs, products, *rest: multiply(self, accs, [change(p) for p in products], *rest)
    monkeypatch.setattr(sm90._Kernel, "_multiply", others)
    with WRONG:
        prove(case)


def test_the_dy_of_another_consumer_is_wrong(monkeypatch):
    multiply = sm90._Kernel._multiply
    first = lambda self, accs, products, shared, slot, m: multiply(self, accs, products, shared, slot, m * 0)
    monkeypatch.setattr(sm90._Kernel, "_multiply", first)
    with WRONG:
        prove(SIDE_BY_SIDE)


@pytest.mark.parametrize("broken", ["example", "second piece of dy", "second piece of x"])
def test_another_image_is_wrong(monkeypatch, broken):
    pixels, images = Schedule.pixels, PIECES.product.batch * PIECES.product.models

    def others(self, tile, reduction, step):
        x, dy, rows = pixels(self, tile._replace(example=tile.example * int(broken != "example")), reduction, step)
        x, dy = (x % images if broken.endswith("x") else x), (dy % images if broken.endswith("dy") else dy)
        return x, dy, rows

    monkeypatch.setattr(Schedule, "pixels", others)
    with WRONG:
        prove(PIECES)


def test_pieces_of_16_bits_alone_are_wrong(monkeypatch):
    """The first pieces, rounded, are not the numbers: without the second ones, the result is that of bfloat16."""
    pieces = sm90.pieces
    monkeypatch.setattr(
        sm90, "pieces", lambda a: pieces(a).at[len(a) :].set(0) if a.dtype == jnp.float32 else pieces(a)
    )
    with WRONG:
        prove(PIECES)


def test_a_line_that_the_bias_gradient_leaves_out_is_wrong(monkeypatch):
    total = sm90._Kernel._sum
    monkeypatch.setattr(sm90._Kernel, "_sum", lambda self, dys: total(self, dys[:-1]))
    with pytest.raises(AssertionError, match=r"output db: .*right=False"):
        prove(BIAS)


def test_boxes_that_no_tap_meets_are_in_the_bias_gradient(monkeypatch):
    """The first tap tile walks them for it alone."""
    reduction = Schedule.reduction
    other = lambda self, tile: reduction(self, tile._replace(tap_tile=jnp.maximum(tile.tap_tile, 1)))
    monkeypatch.setattr(Schedule, "reduction", other)
    with WRONG:
        prove(SKIPPING)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("space_to_depth", lambda change: lambda x, axes: jnp.roll(change(x, axes), 1, -1)),
        ("depth_to_taps", lambda change: lambda dw, axes: jnp.flip(change(dw, axes), 1)),
        ("without_row_outputs", lambda change: lambda dw, last, count: change(jnp.roll(dw, 1, -2), last, count)),
    ],
    ids=["space_to_depth", "depth_to_taps", "outputs"],
)
def test_channels_that_were_pixels_in_another_place_are_wrong(monkeypatch, name, broken):
    module = sm90 if name == "space_to_depth" else wgrad_operands
    monkeypatch.setattr(module, name, broken(getattr(module, name)))
    with WRONG:
        prove(SPACE_TO_DEPTH)


def test_a_tile_of_another_place_shows(monkeypatch):
    """Two tiles store to one place, and none to the other, which is full of NaN: no gradient is right by accident."""
    tile = Schedule.tile
    monkeypatch.setattr(Schedule, "tile", lambda *at: tile(*at)._replace(tap_tile=jnp.int32(0)))
    with WRONG_OR_RACE:
        prove(MUTANT)


def test_the_channels_of_the_other_block_of_a_cluster_show(monkeypatch):
    tile = Schedule.tile
    monkeypatch.setattr(Schedule, "tile", lambda self, worker, i, cta: tile(self, worker, i, cta * 0))
    with WRONG_OR_RACE:
        prove(SHARED)


def test_a_tile_that_nobody_computes_shows(monkeypatch):
    tiles_of = Schedule.tiles_of
    monkeypatch.setattr(
        Schedule, "tiles_of", lambda self, worker: tiles_of(self, worker) - jnp.where(worker == 0, 1, 0)
    )
    with WRONG:
        prove(MUTANT)

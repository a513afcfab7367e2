"""Can the proofs of the large-kernel depthwise kernel fail? Break it in ways that are easily come by."""

import jax.numpy as jnp
import pytest

from pallas_conv.kernels.large_depthwise import hankel
from pallas_conv.kernels.large_depthwise import operands as large_operands
from pallas_conv.kernels.large_depthwise.pixel_sums import PixelSums
from pallas_conv.kernels.large_depthwise.schedule import Schedule
from pallas_conv.kernels.large_depthwise.strips import Strips
from pallas_conv.kernels.large_depthwise.weight_sums import WeightSums
from tests.kernels.large_depthwise.mutants import FLIPPED, MUTANT, WEIGHTS
from tests.kernels.mutating import UNORDERED, WRONG, WRONG_OR_UNORDERED, nothing, within
from tests.kernels.proving import prove


@pytest.mark.parametrize("case", [MUTANT, pytest.param(FLIPPED, marks=pytest.mark.extended), WEIGHTS], ids=str)
def test_unbroken(case):
    prove(case)


@pytest.mark.parametrize(
    ("part", "method", "dropped", "case"),
    [
        (Strips, "prepare", "barrier_wait", MUTANT),
        (Strips, "add_chunk", "barrier_wait", MUTANT),
        (PixelSums, "_store", "barrier_wait", MUTANT),
        (PixelSums, "_store", "wait_smem_to_gmem", MUTANT),
        pytest.param(PixelSums, "consume", "barrier_wait", MUTANT, marks=pytest.mark.extended),
        (WeightSums, "begin_strip", "barrier_wait", WEIGHTS),
        pytest.param(Strips, "add_chunk", "barrier_wait", WEIGHTS, marks=pytest.mark.extended),
    ],
)
def test_a_kernel_without(monkeypatch, part, method, dropped, case):
    within(monkeypatch, part, method, **{dropped: nothing})
    with UNORDERED:
        prove(case)


def test_weights_in_the_order_of_the_kernel_instead_of_the_offsets(monkeypatch):
    monkeypatch.setattr(large_operands, "reordered", lambda w, axis, order: w)
    with WRONG:
        prove(FLIPPED)


@pytest.mark.extended
@pytest.mark.parametrize("case", [MUTANT, WEIGHTS], ids=str)
def test_rows_one_further_are_wrong(monkeypatch, case):
    add_chunk = Strips.add_chunk
    monkeypatch.setattr(
        Strips,
        "add_chunk",
        lambda self, sums, shared, buffer, rows, me: add_chunk(
            self, sums, shared, buffer, lambda row, group: rows(row, group) + int(row == 3), me
        ),
    )
    with WRONG:
        prove(case)


@pytest.mark.parametrize("case", [MUTANT, pytest.param(WEIGHTS, marks=pytest.mark.extended)], ids=str)
def test_the_pixels_of_another_row_are_wrong(monkeypatch, case):
    multiply_row = hankel.multiply_row
    mirrored = lambda sums, pixels, rows, *how, **more: multiply_row(sums, pixels, rows[::-1], *how, **more)
    monkeypatch.setattr(hankel, "multiply_row", mirrored)
    with WRONG:
        prove(case)


def test_even_pixels_in_the_place_of_odd_ones_are_wrong(monkeypatch):
    interleave = hankel.interleave
    swapped = lambda results: results.reshape(4, 2, 8, 8)[:, ::-1].reshape(results.shape)
    monkeypatch.setattr(hankel, "interleave", lambda results, *to, **how: interleave(swapped(results), *to, **how))
    with WRONG:
        prove(MUTANT)


def test_a_bias_gradient_that_is_not_carried_on_is_wrong(monkeypatch):
    transpose = hankel.transpose
    first = lambda added: None if added is None else added * 0
    monkeypatch.setattr(
        hankel, "transpose", lambda pixels, to, added, **how: transpose(pixels, to, first(added), **how)
    )
    with WRONG:
        prove(WEIGHTS)


@pytest.mark.extended
def test_a_cotangent_without_zeros_around_it_is_wrong(monkeypatch):
    ones = lambda ref, **how: ref.__setitem__(..., jnp.ones(ref.shape, ref.dtype))
    monkeypatch.setattr(hankel, "clear", ones)
    with WRONG:
        prove(WEIGHTS)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("field", "case"),
    [(field, case) for case in (MUTANT, WEIGHTS) for field in ("image", "channel")] + [("row", WEIGHTS)],
)
def test_a_strip_in_the_place_of_another_shows(monkeypatch, field, case):
    strip = Schedule.strip
    first = lambda found: found._replace(**{field: getattr(found, field) * 0})
    monkeypatch.setattr(Schedule, "strip", lambda *at: first(strip(*at)))
    with WRONG_OR_UNORDERED:
        prove(case)


@pytest.mark.extended
@pytest.mark.parametrize("case", [MUTANT, WEIGHTS], ids=str)
def test_a_chunk_that_nobody_multiplies_shows(monkeypatch, case):
    strip = Schedule.strip
    fewer = lambda rows: rows._replace(last=jnp.maximum(rows.last - 1, rows.first + 1))
    monkeypatch.setattr(Schedule, "strip", lambda *at: (found := strip(*at))._replace(rows=fewer(found.rows)))
    with WRONG:
        prove(case)


@pytest.mark.extended
def test_parts_that_overwrite_each_other_show(monkeypatch):
    place = WeightSums._place
    monkeypatch.setattr(WeightSums, "_place", lambda self, worker: (place(self, worker)[0], jnp.int32(0)))
    with WRONG_OR_UNORDERED:
        prove(WEIGHTS)

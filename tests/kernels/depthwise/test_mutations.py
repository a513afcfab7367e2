"""Can the proofs of the depthwise kernel fail? Break it in ways that are easily come by, and see each one found."""

import jax.numpy as jnp
import pytest

from pallas_conv.kernels import mosaic
from pallas_conv.kernels.depthwise import fragments
from pallas_conv.kernels.depthwise import operands as depthwise_operands
from pallas_conv.kernels.depthwise.backward import Backward
from pallas_conv.kernels.depthwise.pixel_sums import PixelSums, Weights
from pallas_conv.kernels.depthwise.schedule import Schedule
from pallas_conv.kernels.depthwise.strips import Chunks
from pallas_conv.kernels.depthwise.tiling import Tiling
from pallas_conv.kernels.depthwise.weight_sums import WeightSums
from pallas_conv.kernels.ring import Ring
from tests.kernels.depthwise.mutants import (
    ADDS,
    ADDS_OF_GROUPS,
    BACKWARD,
    BACKWARD_OF_GROUPS,
    CHANNELS,
    DERIVATIVE,
    DERIVATIVE_ADDS,
    FLIPPED,
    GROUPS,
    MUTANT,
    PHASES,
    PLANES,
    RESIDUAL,
    WEIGHT_ADDS,
    WEIGHT_ADDS_OF_GROUPS,
    WEIGHTS,
    WEIGHTS_OF_COLUMNS,
    WEIGHTS_OF_GROUPS,
    WEIGHTS_OF_PHASES,
    drop_a_tap,
    release_before_summing,
)
from tests.kernels.mutating import REFUSED, UNORDERED, WRONG, WRONG_OR_RACE, nothing, within
from tests.kernels.proving import prove

OTHERS = (
    FLIPPED,
    PHASES,
    PLANES,
    RESIDUAL,
    CHANNELS,
    ADDS,
    WEIGHTS,
    WEIGHTS_OF_PHASES,
    WEIGHTS_OF_COLUMNS,
    BACKWARD,
    BACKWARD_OF_GROUPS,
    DERIVATIVE,
    DERIVATIVE_ADDS,
)


@pytest.mark.parametrize(
    "case", [MUTANT, WEIGHT_ADDS, *(pytest.param(case, marks=pytest.mark.extended) for case in OTHERS)], ids=str
)
def test_unbroken(case):
    prove(case)


@pytest.mark.parametrize(
    ("method", "dropped", "case"),
    [
        ("_sum", "barrier_wait", MUTANT),
        pytest.param("consume", "barrier_wait", MUTANT, marks=pytest.mark.extended),
        pytest.param("produce", "barrier_wait", MUTANT, marks=pytest.mark.extended),
        pytest.param("consume", "commit_smem", MUTANT, marks=pytest.mark.extended),
        ("_sum", "barrier_wait", RESIDUAL),
        ("_sum", "wait_smem_to_gmem", MUTANT),
        pytest.param("_load_residual", "wait_smem_to_gmem", RESIDUAL, marks=pytest.mark.extended),
    ],
)
def test_a_kernel_without(monkeypatch, method, dropped, case):
    within(monkeypatch, PixelSums, method, **{dropped: nothing})
    with UNORDERED:
        prove(case)


def test_a_slot_released_before_it_is_read(monkeypatch):
    release_before_summing(monkeypatch)
    with UNORDERED:
        prove(MUTANT)


@pytest.mark.parametrize("case", [MUTANT, pytest.param(WEIGHTS, marks=pytest.mark.extended)], ids=str)
def test_a_dropped_tap_is_wrong(monkeypatch, case):
    drop_a_tap(monkeypatch)
    with WRONG:
        prove(case)


def test_weights_in_the_order_of_the_kernel_instead_of_the_offsets(monkeypatch):
    monkeypatch.setattr(depthwise_operands, "reordered", lambda w, axis, order: w)
    with WRONG:
        prove(FLIPPED)


@pytest.mark.parametrize(("engine", "case"), [(fragments.TensorCores, MUTANT), (fragments.MultiplyAdds, ADDS)])
def test_the_weights_of_other_taps_are_wrong(monkeypatch, engine, case):
    multiply = engine.multiply
    monkeypatch.setattr(engine, "multiply", lambda self, acc, xs, ws: multiply(self, acc, xs, ws[::-1]))
    with WRONG:
        prove(case)


@pytest.mark.extended
@pytest.mark.parametrize("part", ["weights", "bias"])
def test_the_weights_and_the_bias_of_other_channels_are_wrong(monkeypatch, part):
    load = PixelSums.weights

    def first(self, gmem, strip, me):
        (weights, bias), (others, another) = (
            load(self, gmem, at, me) for at in (strip, strip._replace(channel=strip.channel * 0))
        )
        return Weights(weights, another) if part == "bias" else Weights(others, bias)

    monkeypatch.setattr(PixelSums, "weights", first)
    with WRONG:
        prove(CHANNELS)


@pytest.mark.extended
@pytest.mark.parametrize("case", [MUTANT, BACKWARD], ids=str)
def test_a_row_that_is_stored_before_its_last_tap_is_wrong(monkeypatch, case):
    finished = Tiling.finished_by
    monkeypatch.setattr(Tiling, "finished_by", lambda self, row: finished(self, row + 1))
    with WRONG:
        prove(case)


@pytest.mark.extended
def test_a_phase_in_the_place_of_another_shows(monkeypatch):
    window = PixelSums._window
    monkeypatch.setattr(PixelSums, "_window", lambda self, strip, tile, phase, me: window(self, strip, tile, 0, me))
    with WRONG_OR_RACE:
        prove(PHASES)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("field", "case"),
    [("image", MUTANT), ("plane", PLANES), ("row", MUTANT), ("column", MUTANT), ("channel", CHANNELS)],
)
def test_a_strip_in_the_place_of_another_shows(monkeypatch, field, case):
    strip = Schedule.strip
    first = lambda found: found._replace(**{field: getattr(found, field) * 0})
    monkeypatch.setattr(Schedule, "strip", lambda *at: first(strip(*at)))
    with WRONG_OR_RACE:
        prove(case)


@pytest.mark.extended
@pytest.mark.parametrize(("part", "case"), [("channel", MUTANT), ("column", ADDS)])
def test_what_another_consumer_sums_shows(monkeypatch, part, case):
    consume = PixelSums.consume
    first = lambda me: me._replace(**{part: getattr(me, part) * 0})
    monkeypatch.setattr(PixelSums, "consume", lambda self, g, shared, w, me: consume(self, g, shared, w, first(me)))
    with WRONG_OR_RACE:
        prove(case)


@pytest.mark.extended
def test_a_strip_that_nobody_computes_shows(monkeypatch):
    strips_of = Schedule.strips_of
    monkeypatch.setattr(
        Schedule, "strips_of", lambda self, worker: strips_of(self, worker) - jnp.where(worker == 0, 1, 0)
    )
    with WRONG:
        prove(MUTANT)


@pytest.mark.extended
def test_a_tile_that_nobody_computes_shows(monkeypatch):
    strip = Schedule.strip
    monkeypatch.setattr(
        Schedule, "strip", lambda *at: (found := strip(*at))._replace(tiles=jnp.maximum(found.tiles - 1, 1))
    )
    with WRONG:
        prove(MUTANT)


# The weight gradient.


@pytest.mark.parametrize(
    ("method", "dropped"),
    [
        ("add_tile", "barrier_wait"),
        pytest.param("consume", "barrier_wait", marks=pytest.mark.extended),
        pytest.param("produce", "barrier_wait", marks=pytest.mark.extended),
        pytest.param("consume", "commit_smem", marks=pytest.mark.extended),
    ],
)
def test_a_weight_gradient_without(monkeypatch, method, dropped):
    within(monkeypatch, WeightSums, method, **{dropped: nothing})
    with UNORDERED:
        prove(WEIGHTS)


def without(monkeypatch, method):
    """Break the cotangents' ring."""
    partners = WeightSums._partners

    def broken(self, shared):
        found = partners(self, shared)
        ring = type("Broken", (Ring,), {method: nothing})
        return found._replace(ring=ring(found.ring.stages, found.ring.full, found.ring.empty))

    monkeypatch.setattr(WeightSums, "_partners", broken)


def test_a_cotangent_that_is_not_waited_for(monkeypatch):
    without(monkeypatch, "wait")
    with UNORDERED:
        prove(WEIGHTS)


@pytest.mark.extended
def test_a_cotangent_that_is_overwritten_while_it_is_read(monkeypatch):
    without(monkeypatch, "acquire")
    with UNORDERED:
        prove(WEIGHTS)


def test_the_gradient_of_another_tap_is_wrong(monkeypatch):
    of_taps = fragments.TensorCores.of_taps
    backwards = lambda self, acc, count: of_taps(self, acc, 2)[::-1][:count]
    monkeypatch.setattr(fragments.TensorCores, "of_taps", backwards)
    with WRONG:
        prove(WEIGHTS)


# Groups of several channels.


def test_weights_of_the_next_group_are_wrong(monkeypatch):
    weights = depthwise_operands.Views.weights
    monkeypatch.setattr(
        depthwise_operands.Views, "weights", lambda self, w: jnp.roll(weights(self, w), self.problem.group, axis=-1)
    )
    with WRONG:
        prove(GROUPS)


def test_gradients_of_the_next_group_are_wrong(monkeypatch):
    blocks = depthwise_operands.Views._blocks
    next_ones = lambda sums, group: jnp.roll(sums.reshape(len(sums), 2, 8, -1), group, axis=2).reshape(sums.shape)
    monkeypatch.setattr(
        depthwise_operands.Views, "_blocks", lambda self, sums: blocks(self, next_ones(sums, self.problem.group))
    )
    with WRONG:
        prove(WEIGHTS_OF_GROUPS)


@pytest.mark.extended
@pytest.mark.parametrize("case", [ADDS_OF_GROUPS, WEIGHT_ADDS_OF_GROUPS], ids=str)
def test_another_channel_of_a_group_in_float32_is_wrong(monkeypatch, case):
    load = fragments.MultiplyAdds._load
    monkeypatch.setattr(
        fragments.MultiplyAdds, "_load", lambda self, line, starts, i: load(self, line, starts, (i + 1) % self.group)
    )
    with WRONG:
        prove(case)


@pytest.mark.extended
def test_gradients_in_the_order_of_the_offsets_instead_of_the_kernel(monkeypatch):
    monkeypatch.setattr(depthwise_operands, "reordered", lambda w, axis, order: w)
    with WRONG:
        prove(WEIGHTS_OF_PHASES)


@pytest.mark.extended
def test_the_cotangent_of_another_phase_is_wrong(monkeypatch):
    window = depthwise_operands.ResultBoxes.window
    first = lambda phase: [0 for _ in phase]
    monkeypatch.setattr(
        depthwise_operands.ResultBoxes, "window", lambda self, at, phase, group: window(self, at, first(phase), group)
    )
    with WRONG:
        prove(WEIGHTS_OF_PHASES)


@pytest.mark.extended
@pytest.mark.parametrize("case", [WEIGHTS_OF_COLUMNS, WEIGHT_ADDS], ids=str)
def test_parts_that_overwrite_each_other_show(monkeypatch, case):
    store = WeightSums._store
    first = lambda me: me._replace(number=me.number * 0)
    monkeypatch.setattr(WeightSums, "_store", lambda self, gmem, sums, w, me: store(self, gmem, sums, w, first(me)))
    with WRONG_OR_RACE:
        prove(case)


# The whole backward pass.


@pytest.mark.parametrize(
    ("kind", "method", "dropped"),
    [
        (PixelSums, "wait_for_staging", "wait_smem_to_gmem"),
        pytest.param(WeightSums, "consume", "commit_smem", marks=pytest.mark.extended),
    ],
)
def test_a_backward_pass_without(monkeypatch, kind, method, dropped):
    within(monkeypatch, kind, method, **{dropped: nothing})
    with UNORDERED:
        prove(BACKWARD)


@pytest.mark.extended
def test_a_backward_pass_that_ends_before_its_stores_have(monkeypatch):
    wait = mosaic.wait_smem_to_gmem
    until_read = lambda n, wait_read_only=False: wait(n, wait_read_only=True) if wait_read_only else None
    within(monkeypatch, Backward, "consume", wait_smem_to_gmem=until_read)
    with pytest.raises(REFUSED, match="Not all copy_smem_to_gmem"):
        prove(BACKWARD)


def test_a_bias_gradient_of_other_rows_is_wrong(monkeypatch):
    lines, add = Chunks.lines, Backward._add_cotangent

    def of_the_row_above(*args):
        with monkeypatch.context() as within_it:
            within_it.setattr(Chunks, "lines", lambda self, row: lines(self, row - 1))
            return add(*args)

    monkeypatch.setattr(Backward, "_add_cotangent", of_the_row_above)
    with WRONG:
        prove(BACKWARD)


@pytest.mark.extended
def test_weights_from_the_inputs_to_the_outputs_of_a_group_are_wrong(monkeypatch):
    last = depthwise_operands._weights_last
    monkeypatch.setattr(depthwise_operands, "_weights_last", lambda w, summed: last(w, 3 - summed))
    with WRONG:
        prove(BACKWARD_OF_GROUPS)


@pytest.mark.extended
def test_gradients_of_weights_from_the_inputs_to_the_outputs_of_a_group_are_wrong(monkeypatch):
    blocks = depthwise_operands.Views._blocks

    def turned(self, sums):
        found = blocks(self, sums)
        square = found.reshape(len(found), self.problem.group, -1, self.problem.group)
        return square.swapaxes(1, 3).reshape(found.shape)

    monkeypatch.setattr(depthwise_operands.Views, "_blocks", turned)
    with WRONG:
        prove(BACKWARD_OF_GROUPS)


@pytest.mark.extended
@pytest.mark.parametrize("case", [DERIVATIVE, DERIVATIVE_ADDS], ids=str)
def test_a_bias_gradient_of_pixels_beside_the_outputs_is_wrong(monkeypatch, case):
    at_outputs = Backward._at_outputs
    monkeypatch.setattr(Backward, "_at_outputs", lambda self, first: at_outputs(self, first) | True)
    with WRONG:
        prove(case)


@pytest.mark.extended
def test_chunks_that_are_multiplied_twice_are_wrong(monkeypatch):
    multiply = Backward._multiply

    def twice(self, sums, shared, strip, arriving, me):
        found = multiply(self, sums, shared, strip, arriving, me)
        with monkeypatch.context() as there:
            there.setattr(Ring, "wait", nothing)
            multiply(self, sums, shared, strip, arriving, me)
        return found

    monkeypatch.setattr(Backward, "_multiply", twice)
    with WRONG:
        prove(DERIVATIVE)


@pytest.mark.extended
def test_a_chunk_that_is_not_waited_for_before_it_is_multiplied(monkeypatch):
    within(monkeypatch, Backward, "_multiply", barrier_wait=nothing)
    with UNORDERED:
        prove(DERIVATIVE)

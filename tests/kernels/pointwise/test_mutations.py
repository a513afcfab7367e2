"""Can the proofs of the pointwise kernel fail? Break it in ways that are easily come by, and see each one found."""

import jax.numpy as jnp
import pytest

from pallas_conv.kernels import mosaic
from pallas_conv.kernels.pointwise.consumer import Consumer
from pallas_conv.kernels.pointwise.memory import Shared
from pallas_conv.kernels.pointwise.operands import Views
from pallas_conv.kernels.pointwise.producer import Producer
from pallas_conv.kernels.pointwise.schedule import Part, Schedule
from tests.kernels.mutating import WRONG, WRONG_OR_UNORDERED, nothing, within
from tests.kernels.pointwise.mutants import KEEPING, MODELS, MUTANT, PREPARED, SUMMING
from tests.kernels.proving import prove

LONG = pytest.mark.extended


@pytest.mark.parametrize(
    "case", [MUTANT, PREPARED, *(pytest.param(c, marks=LONG) for c in (KEEPING, SUMMING, MODELS))], ids=str
)
def test_unbroken(case):
    prove(case)


@pytest.mark.parametrize(
    ("part", "method", "dropped", "case"),
    [
        (Producer, "_load_cotangent", "barrier_wait", MUTANT),
        (Producer, "_load_x", "barrier_wait", MUTANT),
        (Producer, "_go_through", "barrier_wait", PREPARED),
        (Consumer, "_multiply", "barrier_wait", MUTANT),
        pytest.param(Consumer, "_multiply", "barrier_wait", PREPARED, marks=LONG),
        (Consumer, "run", "barrier_wait", MUTANT),
    ],
)
def test_a_kernel_without(monkeypatch, part, method, dropped, case):
    within(monkeypatch, part, method, **{dropped: nothing})
    with WRONG_OR_UNORDERED:
        prove(case)


def test_a_cotangent_without_its_derivative_shows(monkeypatch):
    monkeypatch.setattr(Shared, "await_cotangent", lambda self, slot: self.ring.wait(slot))
    with WRONG_OR_UNORDERED:
        prove(PREPARED)


@LONG
def test_a_cotangent_that_is_not_multiplied_by_the_derivative_is_wrong(monkeypatch):
    monkeypatch.setattr(Producer, "_derivative", lambda self, saved: jnp.ones_like(saved, jnp.float32))
    with WRONG:
        prove(PREPARED)


def test_the_derivative_of_another_place_is_wrong(monkeypatch):
    derivative = Producer._derivative
    monkeypatch.setattr(Producer, "_derivative", lambda self, saved: derivative(self, jnp.roll(saved, 1, 0)))
    with WRONG:
        prove(PREPARED)


@pytest.mark.parametrize("case", [MUTANT, pytest.param(KEEPING, marks=LONG)], ids=str)
def test_the_pixels_of_the_other_consumer_are_wrong(monkeypatch, case):
    own = Schedule.own_window
    monkeypatch.setattr(Schedule, "own_window", lambda self, part, step, me: own(self, part, step, 1 - me))
    with WRONG:
        prove(case)


@pytest.mark.parametrize(("name", "case"), [("_own_chunk", MUTANT), ("_own_column", KEEPING)])
def test_a_block_that_both_consumers_sum_shows(monkeypatch, name, case):
    """Both store it, and nobody the other."""
    first = property(lambda self: jnp.int32(0)) if name == "_own_chunk" else lambda self, column: jnp.int32(column)
    monkeypatch.setattr(Consumer, name, first)
    with WRONG_OR_UNORDERED:
        prove(case)


@LONG
def test_a_step_that_two_parts_take_is_wrong(monkeypatch):
    part = Schedule.part
    longer = lambda found: found._replace(first=found.first - 1, steps=found.steps + 1)
    second = lambda found: jnp.where(found.number == 1, jnp.array(longer(found)), jnp.array(found))
    monkeypatch.setattr(Schedule, "part", lambda self, worker: Part(*second(part(self, worker))))
    with WRONG_OR_UNORDERED:  # both store its dx, and sum it
        prove(PREPARED)


def test_a_part_without_its_last_step_is_wrong(monkeypatch):
    part = Schedule.part
    shorter = lambda found: found._replace(steps=found.steps - 1)
    monkeypatch.setattr(Schedule, "part", lambda self, worker: shorter(part(self, worker)))
    with WRONG_OR_UNORDERED:
        prove(MUTANT)


@pytest.mark.parametrize("case", [SUMMING, pytest.param(PREPARED, marks=LONG)], ids=str)
def test_a_chunk_that_the_bias_gradient_leaves_out_is_wrong(monkeypatch, case):
    lines = Producer._go_through_lines

    def without(self, bias, at):
        lines(self, bias, at)
        return bias

    monkeypatch.setattr(Producer, "_go_through_lines", without)
    with pytest.raises(AssertionError, match=r"output db: .*right=False"):
        prove(case)


@pytest.mark.parametrize("case", [MUTANT, pytest.param(KEEPING, marks=LONG)], ids=str)
def test_a_slot_released_before_it_is_multiplied_is_wrong(monkeypatch, case):
    """At the beginning of a step, and not again at its end."""
    multiply, arrive = Consumer._multiply, mosaic.barrier_arrive

    def too_early(self, sums, step, c, dx):
        if c == 0:
            for slot in step.slots:
                self.shared.await_cotangent(slot)
                arrive(self.shared.ring.empty.at[slot])
            arrive(self.shared.x_ring.empty.at[step.x_slot])
        with monkeypatch.context() as inner:
            inner.setattr(mosaic, "barrier_arrive", nothing)
            inner.setattr(Shared, "await_cotangent", nothing)
            return multiply(self, sums, step, c, dx)

    monkeypatch.setattr(Consumer, "_multiply", too_early)
    with WRONG_OR_UNORDERED:
        prove(case)


@pytest.mark.parametrize("case", [SUMMING, pytest.param(PREPARED, marks=LONG)], ids=str)
def test_a_dropped_part_is_wrong(monkeypatch, case):
    gradients = Views.gradients
    monkeypatch.setattr(Views, "gradients", lambda self, sums, product: gradients(self, [s[:1] for s in sums], product))
    with WRONG:
        prove(case)


def test_another_example_is_wrong(monkeypatch):
    part = Schedule.part
    monkeypatch.setattr(Schedule, "part", lambda *at: (found := part(*at))._replace(example=found.example * 0))
    with WRONG_OR_UNORDERED:
        prove(MODELS)


def test_what_is_not_stored_is_wrong(monkeypatch):
    """Memory of results is full of NaN: no gradient is right by accident."""
    monkeypatch.setattr(mosaic, "copy_smem_to_gmem", nothing)
    with WRONG:
        prove(MUTANT)

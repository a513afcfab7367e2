"""Timing: what is called how often and on what, and what is made of it. Durations themselves are not tested."""

import dataclasses
import inspect
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.mosaic.gpu import profiler

from pallas_conv.verify import timing


def add(x, y):
    return x + y


def operands(count):
    return [(jnp.full(4, float(i)), jnp.full(4, 10.0)) for i in range(count)]


def test_a_rotation_takes_its_operands_in_turn():
    rotation = timing.Rotation(jax.jit(add), operands(3))
    assert [float(rotation()[0]) for _ in range(4)] == [10, 11, 12, 10]


@pytest.mark.parametrize(("nbytes", "count"), [(1, 24), (10_000_000, 11), (50_000_000, 3), (500_000_000, 2)])
def test_enough_copies_to_leave_the_cache(nbytes, count):
    assert timing.copies(nbytes) == count


def test_candidates_are_timed_by_the_clock_without_a_gpu():
    found = timing.measure({"a": jax.jit(add), "b": jax.jit(jnp.multiply)}, operands(2), rounds=3, round_ms=0.1)
    assert list(found) == ["a", "b"]
    for t in found.values():
        assert t.source == "wall"
        assert t.samples == 3
        assert t.ms == t.wall_ms
        assert 0 < t.low <= t.ms <= t.high


# ------------------------------------------------------------ with a stand-in for CUPTI


class Array(np.ndarray):
    """An array that claims to lie on a GPU."""

    def devices(self):
        return [types.SimpleNamespace(platform="gpu")]


class Gpu:
    """Launches kernels of known times, and loses some of their records."""

    def __init__(self):
        self.records, self.sessions, self.lost = [], [], lambda session, records: records

    def program(self, *kernels):
        return lambda *operands: self.records.extend(kernels) or np.zeros(1)

    def session(self, body):
        self.records.clear()
        body()
        self.sessions.append(list(self.records))
        return self.lost(len(self.sessions), list(self.records))


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(timing, "session", gpu.session)
    # The clock's reading decides how many samples are taken: here it is the same however busy this machine is.
    monkeypatch.setattr(timing, "_wall", lambda f, iterations: 1e-3)
    monkeypatch.setattr(timing, "_mark", lambda: (gpu.program(("mark", 9.0)), None))
    return gpu


def measured(gpu, **how):
    programs = {"a": gpu.program(("transpose", 1.0), ("conv", 2.0)), "b": gpu.program(("conv", 5.0))}
    return timing.measure(programs, [(np.ones(3).view(Array),)], **({"rounds": 3, "round_ms": 0.1} | how))


def test_all_programs_of_a_case_share_a_session_in_turns(gpu):
    found = measured(gpu)
    assert len(gpu.sessions) == 1
    assert [(t.source, t.ms, t.kernels, t.note) for t in found.values()] == [
        ("cupti", 3.0, 2, None), ("cupti", 5.0, 1, None),
    ]  # fmt: skip
    assert found["a"].longest == (("conv", 2.0), ("transpose", 1.0))
    kernels = [ms for kernel, ms in gpu.sessions[0][timing.MARKS :] if kernel == "conv"]
    assert [ms for ms, _ in itertools.groupby(kernels)] == 3 * [2.0, 5.0]
    assert gpu.sessions[0].count(("mark", 9.0)) == timing.MARKS + len(kernels)


def test_records_lost_at_the_beginning_cost_nothing(gpu):
    whole = measured(gpu)["a"].samples
    gpu.lost = lambda session, records: records[timing.MARKS - 1 :]
    assert measured(gpu)["a"].samples == whole
    assert len(gpu.sessions) == 2


def test_a_call_of_which_a_record_is_lost_is_left_out(gpu):
    whole = measured(gpu)["a"].samples
    gpu.lost = lambda session, records: [r for i, r in enumerate(records) if i != timing.MARKS]
    found = measured(gpu)
    assert (found["a"].source, found["a"].samples, found["a"].ms) == ("cupti", whole - 1, 3.0)
    assert len(gpu.sessions) == 2


def without(count, at):
    """A change to the records of `count` sessions: the record at the place `at` is lost."""
    return lambda session, records: records if session > count else [r for i, r in enumerate(records) if i != at]


def test_a_session_whose_calls_cannot_be_told_apart_is_repeated_once(gpu):
    gpu.lost = without(1, timing.MARKS + 2)  # the mark behind the first call
    assert {t.source for t in measured(gpu).values()} == {"cupti"}
    assert len(gpu.sessions) == 2


def test_after_the_second_the_difference_of_two_lengths_of_batches_stands_in(gpu, monkeypatch):
    gpu.lost = without(9, timing.MARKS + 2)
    monkeypatch.setattr(timing, "_wall", lambda f, n: (10 + 2 * n) / n)  # 10 ms a batch, 2 ms a call
    found = measured(gpu)["a"]
    assert len(gpu.sessions) == 2
    assert (found.source, found.ms) == ("batches", 2.0)
    assert found.wall_ms > 2
    assert found.note.startswith("RuntimeError: CUPTI saw")


def test_a_batch_that_takes_no_longer_when_it_is_longer_is_not_subtracted(monkeypatch):
    monkeypatch.setattr(timing, "_wall", lambda f, n: 30 / n)
    assert timing._added(lambda: None, 5) == 2.0


def test_without_device_times_the_reason_is_kept(gpu):
    def refused(session, records):
        raise RuntimeError("CUPTI: no permission")

    gpu.lost = refused
    found = measured(gpu)["b"]
    assert found.note == "RuntimeError: CUPTI: no permission"
    assert found.source == "batches"


def test_a_session_runs_its_body_once_and_leaves_cupti_attached(monkeypatch):
    calls = []

    class Cupti:
        def __init__(self, finalize):
            assert not finalize

        def measure(self, f, aggregate):
            assert isinstance(f, jax.stages.Wrapped)  # or the profiler would trace it

            def wrapper():
                before = len(calls)
                f()
                assert len(calls) == before  # warm-up
                return f(), [("kernel", 1.0)] * (len(calls) - before)

            return wrapper

    monkeypatch.setattr(profiler, "Cupti", Cupti)
    assert timing.session(lambda: calls.append(1)) == [("kernel", 1.0)]
    with pytest.raises(RuntimeError, match="no kernels"):
        timing.session(lambda: None)


def test_the_real_profiler_has_what_a_session_asks_for():
    assert [f.name for f in dataclasses.fields(profiler.Cupti)] == ["finalize"]
    assert {"f", "aggregate"} < inspect.signature(profiler.Cupti.measure).parameters.keys()

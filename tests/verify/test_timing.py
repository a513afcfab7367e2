"""Timing: what is called how often and on what, and what is made of it. Durations themselves are not tested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.verify import timing


def add(x, y):
    return x + y


def operands(count):
    return [(jnp.full(4, float(i)), jnp.full(4, 10.0)) for i in range(count)]


def test_a_rotation_is_a_wrapped_function_that_takes_its_operands_in_turn():
    rotation = timing.Rotation(jax.jit(add), operands(3))
    assert isinstance(rotation, jax.stages.Wrapped)  # or a profiler would trace it, once, on one set
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


def test_device_times_are_sums_over_the_kernels_of_a_call():
    calls = [[("transpose", 1.0), ("conv", ms)] for ms in (2.0, 3.0, 4.0)]
    found = timing._summary([9.0], calls, None)
    assert (found.ms, found.low, found.high) == (4.0, 3.5, 4.5)
    assert (found.source, found.kernels, found.samples, found.wall_ms) == ("cupti", 2, 3, 9.0)
    assert found.longest[0] == ("conv", 2.0)


def test_without_device_times_the_reason_is_kept(monkeypatch):
    class OnGpu:
        platform = "gpu"

    class Array(np.ndarray):
        def devices(self):
            return {OnGpu()}

    def refused(f, iterations):
        raise RuntimeError("CUPTI: no permission")

    monkeypatch.setattr(timing, "_device", refused)
    pair = (np.ones(3).view(Array), np.ones(3).view(Array))
    (found,) = timing.measure({"a": jax.jit(lambda x, y: x)}, [pair], rounds=2, round_ms=0.1).values()
    assert found.source == "wall"
    assert found.note == "RuntimeError: CUPTI: no permission"

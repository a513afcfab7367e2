"""Ways to break a kernel of any family, for the interpreter's proofs and for the emulator's, and how the former find it."""

from typing import Any

import jax
import pytest

from pallas_conv.kernels import mosaic

# How the interpreter finds a broken kernel. The order of its threads, and JAX's version, decide what it finds first: two
# accesses that nothing orders, or a barrier that passes to a next phase before somebody has waited for this one.
REFUSED = (jax.errors.JaxRuntimeError, mosaic.RaceError)
_DISORDER = r"RACE DETECTED|observed|in all phases"
WRONG = pytest.raises(AssertionError, match="right=False")
RACE = pytest.raises(mosaic.RaceError, match="RACE DETECTED")
UNORDERED = pytest.raises(REFUSED, match=_DISORDER)
WRONG_OR_UNORDERED = pytest.raises((AssertionError, *REFUSED), match=f"right=False|{_DISORDER}")


def nothing(*args, **kwargs) -> None:
    """Do nothing, in the place of a name of the seam that has no result."""


def within(monkeypatch: pytest.MonkeyPatch, part: type, method: str, **names) -> None:
    """Names of the seam, replaced while this method of a part of the kernel is traced, whoever looks them up."""
    traced = getattr(part, method)

    def broken(*args):
        with monkeypatch.context() as inner:
            for name, value in names.items():
                inner.setattr(mosaic, name, value)
            return traced(*args)

    monkeypatch.setattr(part, method, broken)


def release_before_multiplying(monkeypatch: pytest.MonkeyPatch, kernel: Any, stages: int) -> None:
    """A consumer hands a slot back before it multiplies it, and not again afterwards. At first it hands over all slots."""
    consume, multiply, arrive = kernel._consume, kernel._multiply, mosaic.barrier_arrive

    def consume_broken(*args):
        initial = iter(range(stages))
        with monkeypatch.context() as inner:
            inner.setattr(
                mosaic, "barrier_arrive", lambda slot: arrive(slot) if next(initial, None) is not None else None
            )
            return consume(*args)

    def too_early(self, *args):
        at = next(i for i, argument in enumerate(args) if hasattr(argument, "ring"))
        arrive(args[at].ring.empty.at[args[at + 1]])
        multiply(self, *args)

    monkeypatch.setattr(kernel, "_consume", consume_broken)
    monkeypatch.setattr(kernel, "_multiply", too_early)

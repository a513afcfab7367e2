"""Ways to break a kernel of any family, and what the interpreter raises for them. The emulator's proofs use them, too."""

from typing import Any

import jax
import pytest

from pallas_conv.kernels import mosaic

# What the interpreter raises for a broken kernel. Where threads do not wait for each other, their order and JAX's version
# decide what comes first: a race, or a barrier that completes a phase before a thread has waited for the one before. For
# the latter it has three messages: a thread "only observed" a phase, "is awaiting phase" 1, or must wait "in all phases".
REFUSED = (jax.errors.JaxRuntimeError, mosaic.RaceError)
_UNORDERED = r"RACE DETECTED|observed|is awaiting phase|in all phases"
WRONG = pytest.raises(AssertionError, match="right=False")
RACE = pytest.raises(mosaic.RaceError, match="RACE DETECTED")
UNORDERED = pytest.raises(REFUSED, match=_UNORDERED)
WRONG_OR_RACE = pytest.raises((AssertionError, mosaic.RaceError), match=r"right=False|RACE DETECTED")
WRONG_OR_UNORDERED = pytest.raises((AssertionError, *REFUSED), match=f"right=False|{_UNORDERED}")


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

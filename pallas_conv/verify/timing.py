"""How long programs take: by CUPTI on a GPU, else by the clock. Candidates are interleaved, operands rotated past the L2."""

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

L2_BYTES = 50e6  # of an H100
MOST_COPIES = 24  # of small operands, which would need hundreds


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds a call.

    ms        median; of the kernels alone where source is "cupti", of `wall_ms` otherwise
    low high  quartiles of the same
    wall_ms   calls issued back to back, by the clock, as a program that runs many would see it
    kernels   launches a call and the longest of them: (name, ms), of one call
    note      why there are no device times on a GPU, if so
    """

    ms: float
    low: float
    high: float
    wall_ms: float
    samples: int
    source: str
    kernels: int | None = None
    longest: tuple[tuple[str, float], ...] = ()
    note: str | None = None


def copies(nbytes: int, l2: float = L2_BYTES) -> int:
    """How many sets of operands of `nbytes` each to rotate through so that none is found in the cache."""
    return min(MOST_COPIES, 1 + math.ceil(2 * l2 / max(nbytes, 1)))


class Rotation:
    """A jitted function without arguments: each call is of `f` on the next set of operands.

    It has the interface of jax.stages.Wrapped, so that a profiler calls it as it stands instead of tracing it.
    """

    def __init__(self, f: Callable[..., Any], operands: Sequence[tuple[Any, ...]]):
        self.f, self.operands, self.turn = f, operands, itertools.cycle(operands)

    def __call__(self):
        return self.f(*next(self.turn))

    def trace(self, *args, **kwargs):
        raise NotImplementedError("a rotation is only called")

    lower = eval_shape = trace


def _wall(f: Callable[[], Any], iterations: int) -> float:
    start = time.perf_counter()
    for _ in range(iterations - 1):
        f()
    jax.block_until_ready(f())
    return (time.perf_counter() - start) * 1e3 / iterations


def _device(f: Rotation, iterations: int) -> list[list[tuple[str, float]]]:
    """Of each call: its kernels' names and milliseconds."""
    from jax.experimental.mosaic.gpu import profiler

    _, launches = profiler.measure(f, aggregate=False, iterations=iterations)()
    if not launches:
        raise RuntimeError("CUPTI saw no kernels")
    return launches


def measure(
    programs: Mapping[str, Callable[..., Any]],
    operands: Sequence[tuple[Any, ...]],
    *,
    rounds: int = 5,
    round_ms: float = 15.0,
) -> dict[str, Timing]:
    """Time compiled programs on the same operands: every round times each of them for about `round_ms`."""
    on_gpu = next(iter(operands[0][0].devices())).platform == "gpu"
    rotations = {name: Rotation(f, operands) for name, f in programs.items()}
    iterations, note = {}, None
    for name, f in rotations.items():
        jax.block_until_ready(f())
        iterations[name] = max(2, min(20, round(round_ms / max(_wall(f, 2), 1e-3))))
    walls: dict[str, list[float]] = {name: [] for name in programs}
    calls: dict[str, list[list[tuple[str, float]]]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, f in rotations.items():
            walls[name].append(_wall(f, iterations[name]))
    try:
        for _ in range(rounds if on_gpu else 0):
            for name, f in rotations.items():
                calls[name] += _device(f, iterations[name])
    except (
        Exception
    ) as error:  # no CUPTI, no permission, or kernels that differ from call to call: the clock still runs
        note = f"{type(error).__name__}: {error}"[:300]
    return {name: _summary(walls[name], calls[name] if note is None else [], note) for name in programs}


def _summary(walls: list[float], calls: list[list[tuple[str, float]]], note: str | None) -> Timing:
    samples = [sum(ms for _, ms in call) for call in calls] or walls
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    longest = sorted(calls[0], key=lambda launch: -launch[1])[:4] if calls else []
    return Timing(
        middle, low, high, statistics.median(walls), len(samples), "cupti" if calls else "wall",
        len(calls[0]) if calls else None, tuple((n[:80], ms) for n, ms in longest), note,
    )  # fmt: skip

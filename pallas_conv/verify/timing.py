"""Times programs: by CUPTI on a GPU, else by the clock. Candidates are interleaved, operands rotated past the L2."""

import collections
import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

L2_BYTES = 50e6  # of an H100
MOST_COPIES = 24  # of small operands, which would need hundreds
MARKS = 8  # that begin a session: CUPTI may drop its first records
ATTEMPTS = 2  # at a session

type Launch = tuple[str, float]  # a kernel's name and its milliseconds


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds a call.

    ms        median; of the kernels alone where source is "cupti"; of what a call adds to a batch of calls where it is
              "batches", which stands in on a GPU without CUPTI; of `wall_ms` where it is "wall"
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
    longest: tuple[Launch, ...] = ()
    note: str | None = None


def copies(nbytes: int, l2: float = L2_BYTES) -> int:
    """Number of sets of operands of `nbytes` each to rotate through, so that none is found in the cache."""
    return min(MOST_COPIES, 1 + math.ceil(2 * l2 / max(nbytes, 1)))


class Rotation:
    """A function without arguments: each call is of `f` on the next set of operands."""

    def __init__(self, f: Callable[..., Any], operands: Sequence[tuple[Any, ...]]):
        self.f, self.turn = f, itertools.cycle(operands)

    def __call__(self) -> Any:
        return self.f(*next(self.turn))


def _wall(f: Callable[[], Any], iterations: int) -> float:
    start = time.perf_counter()
    for _ in range(iterations - 1):
        f()
    jax.block_until_ready(f())
    return (time.perf_counter() - start) * 1e3 / iterations


def _added(f: Callable[[], Any], iterations: int) -> float:
    """The time that a call adds to a batch of calls, from batches of two lengths. So what a batch costs is left out."""
    few, many = iterations * _wall(f, iterations), 3 * iterations * _wall(f, 3 * iterations)
    return (many - few) / (2 * iterations) if many > few else many / (3 * iterations)


# ------------------------------------------------------------ CUPTI


class Called:
    """A function without arguments that a profiler calls as it stands: it takes it for a jitted one, so does not trace it."""

    def __init__(self, f: Callable[[], Any]):
        self.f = f

    def __call__(self) -> Any:
        return self.f()

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("it is only called")

    lower = eval_shape = trace


def session(body: Callable[[], Any]) -> list[Launch]:
    """All kernels that `body`, called once, launches, as CUPTI saw them, in their order."""
    from jax.experimental.mosaic.gpu import profiler

    turns = iter((lambda: None, body))  # the profiler calls it once before, to warm up
    profile = profiler.Cupti(finalize=False).measure(Called(lambda: next(turns)()), aggregate=False)
    _, launches = profile()
    if not launches:
        raise RuntimeError("CUPTI saw no kernels")
    return launches


@functools.cache
def _mark() -> tuple[Any, jax.Array]:
    """A program whose one kernel no other has: it tells one call from the next."""
    x = jnp.zeros(8, "uint32")
    return jax.jit(lambda x: x ^ np.uint32(1)).lower(x).compile(), x


def _profiled(turns: Sequence[tuple[str, Callable[[], Any]]]) -> dict[str, list[list[Launch]]]:
    """The kernels of each call, by name, from one session; without the calls of which CUPTI missed some."""
    mark, x = _mark()

    def body() -> None:
        for _ in range(MARKS):
            jax.block_until_ready(mark(x))
        for _, f in turns:
            f()
            last = mark(x)
        jax.block_until_ready(last)

    calls: dict[str, list[list[Launch]]] = {}
    for (name, _), call in zip(turns, _split(session(body), len(turns)), strict=True):
        calls.setdefault(name, []).append(call)
    return {name: _alike(name, found) for name, found in calls.items()}


def _split(launches: list[Launch], count: int) -> list[list[Launch]]:
    """The launches between marks, the first of which begin the list."""
    mark = launches[0][0]
    calls: list[list[Launch]] = [[]]
    for launch in itertools.dropwhile(lambda launch: launch[0] == mark, launches):
        if launch[0] == mark:
            calls.append([])
        else:
            calls[-1].append(launch)
    if len(calls) != count + 1 or calls[-1]:
        raise RuntimeError(f"CUPTI saw {len(calls) - 1} of {count} calls")
    return calls[:-1]


def _alike(name: str, calls: list[list[Launch]]) -> list[list[Launch]]:
    """The calls that launched the usual kernels; of the others CUPTI has dropped some."""
    names = [tuple(kernel for kernel, _ in call) for call in calls]
    usual, times = collections.Counter(names).most_common(1)[0]
    if not usual or 2 * times <= len(calls):
        raise RuntimeError(f"CUPTI saw the same kernels in {times} of {len(calls)} calls of {name}")
    return [call for call, kernels in zip(calls, names, strict=True) if kernels == usual]


# ------------------------------------------------------------ measuring


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
    calls: dict[str, list[list[Launch]]] = {}
    iterations, note = {}, None
    for name, f in rotations.items():
        jax.block_until_ready(f())
        iterations[name] = max(2, min(20, round(round_ms / max(_wall(f, 2), 1e-3))))

    def in_turns(time: Callable[[Callable[[], Any], int], float]) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(rounds):
            for name, f in rotations.items():
                times[name].append(time(f, iterations[name]))
        return times

    walls = in_turns(_wall)
    if on_gpu:
        turns = [(name, f) for _ in range(rounds) for name, f in rotations.items() for _ in range(iterations[name])]
        calls, note = _attempted(turns)
    added = in_turns(_added) if note else {}
    return {name: _summary(walls[name], calls.get(name, []), added.get(name, []), note) for name in programs}


def _attempted(turns: Sequence[tuple[str, Callable[[], Any]]]) -> tuple[dict[str, list[list[Launch]]], str | None]:
    """The launches that CUPTI saw, or why it saw none: no CUPTI, no permission, records that are missing."""
    for _ in range(ATTEMPTS):
        try:
            return _profiled(turns), None
        except Exception as error:
            note = f"{type(error).__name__}: {error}"[:300]
    return {}, note


def _summary(walls: list[float], calls: list[list[Launch]], added: list[float], note: str | None) -> Timing:
    samples = [sum(ms for _, ms in call) for call in calls] or added or walls
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
    longest = sorted(calls[0], key=lambda launch: -launch[1])[:4] if calls else []
    return Timing(
        middle, low, high, statistics.median(walls), len(samples), "cupti" if calls else "batches" if added else "wall",
        len(calls[0]) if calls else None, tuple((n[:80], ms) for n, ms in longest), note,
    )  # fmt: skip

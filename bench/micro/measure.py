"""The steps: run a question's kernel, look at what it computed, and time it."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_conv.verify import timing

from ..runner import SKIPPED, Context, Program, Row, Source, Step
from . import kernels, stopwatch
from .question import CHECKED, Question, Repetition, Run, Sizes
from .questions import Multiply, multiplied, questions

NO_TIME = f"{SKIPPED}an interpreted kernel has no time"
CHAIN = 17  # kernels one after another
LONG_MS = 300  # of a load under which the clock settles
ROUNDS = 3


def steps(sizes: Sizes) -> list[Step]:
    asked = [_step(question, sizes) for question in questions(sizes)]
    return [*asked, _launches(sizes), *(_sustained(sizes, it) for it in LONG)]


# ------------------------------------------------------------ questions


def _step(question: Question, sizes: Sizes) -> Step:
    program = _program(question, sizes)
    work = functools.partial(_ask, question=question, program=program)
    return Step("micro", question.name, work, (program,), _patience(sizes))


def _patience(sizes: Sizes) -> float | None:
    """Seconds for the interpreter; None: kernels take as long as the runner allows."""
    return 120 if sizes.dry else None


def _program(question: Question, sizes: Sizes) -> Program:
    make = functools.partial(_source, question.name, sizes)
    return Program(f"micro {question.name}", make, kernel=True, portable=not sizes.dry)


def _source(name: str, sizes: Sizes) -> Source:
    (question,) = (q for q in questions(sizes) if q.name == name)
    plan = jax.ShapeDtypeStruct((question.blocks, 4), "int32")
    about = {"code_path": f"micro {question.kernel}", "config": {"question": name}}
    return Source(question.build(interpret=sizes.dry), (plan, *question.shapes), about)


def _ask(context: Context, question: Question, program: Program) -> Iterator[Row]:
    operands = tuple(map(_drawn, question.shapes))
    plan = question.runs[0].plan(CHECKED)
    result, _ = jax.block_until_ready(context.launch(program, plan, *operands))
    context.alive()
    right = question.right(plan, [np.asarray(a) for a in operands], np.asarray(result))
    yield {"status": "ok" if right else "wrong", "detail": f"{CHECKED} repetitions"}
    for run in question.runs if right else ():
        context.alive(run=run.name, kernel=True, **context.compiled(program).about)
        call = context.compiled(program).call
        yield {"status": NO_TIME, "name": run.name} if context.dry else timed(run, call, operands)


@functools.lru_cache(maxsize=2)
def _drawn(shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Normal numbers: the power that tensor cores draw depends on them."""
    draw = jax.jit(lambda: jax.random.normal(jax.random.key(0, impl="rbg"), shape.shape, "float32").astype(shape.dtype))
    return jax.block_until_ready(draw())


def timed(run: Run, call: Callable[..., Any], operands: tuple[Any, ...]) -> Row:
    """The row of a run."""
    counts = {"few": max(1, run.count // 4), "many": run.count}
    plans = {name: jnp.asarray(run.plan(count)) for name, count in counts.items()}
    programs = {name: functools.partial(_launch, call, plan) for name, plan in plans.items()}
    watches = {name: np.asarray(call(plan, *operands)[1]) for name, plan in plans.items()}
    found = timing.measure(programs, [(plans["few"], *operands)], rounds=ROUNDS)
    more = counts["many"] - counts["few"]
    gigahertz = stopwatch.gigahertz(watches["many"])
    us = 1e3 * (found["many"].ms - found["few"].ms) / more
    repetition = Repetition(us, us * gigahertz * 1e3)
    return {
        "name": run.name,
        "value": run.value(repetition),
        "unit": run.unit,
        **repetition._asdict(),
        "clocks_inside": (stopwatch.most_clocks(watches["many"]) - stopwatch.most_clocks(watches["few"])) / more,
        "gigahertz": gigahertz,
        **{f"{name}_us": 1e3 * found[name].ms for name in counts},
        **counts,
        **run.facts,
        "source": " ".join({it.source: None for it in found.values()}),
    }


def _launch(call: Callable[..., Any], plan: jax.Array, _: Any, *operands: Any) -> Any:
    """Launch a kernel with `plan` in the place of another: all programs that are timed take the same operands."""
    return call(plan, *operands)


# ------------------------------------------------------------ launches


class _Chain(NamedTuple):
    """A chain of kernels one after another: empty ones, or XLA's smallest."""

    ours: bool
    length: int

    @property
    def name(self) -> str:
        return f"{'ours' if self.ours else 'xla'}_{self.length}"


CHAINS = tuple(_Chain(ours, length) for ours in (True, False) for length in (1, CHAIN))


def _launches(sizes: Sizes) -> Step:
    programs = {
        it: Program(f"micro {it.name}", functools.partial(_chained, it, sizes), kernel=it.ours, portable=not sizes.dry)
        for it in CHAINS
    }
    return Step(
        "micro", "launches", functools.partial(_time_launches, programs=programs), tuple(programs.values()), seconds=60
    )


def _chained(it: _Chain, sizes: Sizes) -> Source:
    once = kernels.idle(sizes.sms, interpret=sizes.dry)

    def run(x: jax.Array) -> jax.Array:
        for _ in range(it.length):
            x = once(x)[0] if it.ours else jax.lax.optimization_barrier(x + 1)
        return x

    about = {"code_path": "micro idle", "config": {"question": it.name}} if it.ours else {}
    return Source(run, (jax.ShapeDtypeStruct((stopwatch.THREADS,), "int32"),), about)


def _time_launches(context: Context, programs: dict[_Chain, Program]) -> Iterator[Row]:
    x = jnp.arange(stopwatch.THREADS, dtype="int32")
    results = {it: np.asarray(context.launch(program, x)) for it, program in programs.items()}
    right = all((result == np.asarray(x) + (0 if it.ours else it.length)).all() for it, result in results.items())
    yield {"status": "ok" if right else "wrong", "detail": f"chains of {CHAIN} kernels"}
    if context.dry or not right:
        return
    found = timing.measure({it.name: context.compiled(p).call for it, p in programs.items()}, [(x,)], rounds=ROUNDS)
    yield from launch_rows(found)


def launch_rows(found: dict[str, timing.Timing]) -> list[Row]:
    """Rows with the time of an empty kernel, and with the time that one more of either kind adds to a chain of them."""
    rows: list[Row] = [{"name": "launch", "value": 1e3 * found["ours_1"].ms, "source": found["ours_1"].source}]
    for kind in ("ours", "xla"):
        one, chain = found[f"{kind}_1"], found[f"{kind}_{CHAIN}"]
        added = 1e3 * (chain.wall_ms - one.wall_ms) / (CHAIN - 1)
        rows.append({"name": f"launch_next_{kind}", "value": added, "source": "chain", "one_ms": one.wall_ms})
    return [row | {"unit": "us"} for row in rows]


def launch_names() -> set[str]:
    return {"launch", "launch_next_ours", "launch_next_xla"}


# ------------------------------------------------------------ clock and rate under a long load

LONG = (Multiply(128, 128, 2, 128), Multiply(128, 128, 2, 128, "float32"))


def _sustained(sizes: Sizes, it: Multiply) -> Step:
    question = multiplied(sizes, it)
    program = _program(question, sizes)
    work = functools.partial(_load, question=question, it=it, program=program)
    return Step("micro", f"sustained_{it.name}", work, (program,))


def _load(context: Context, question: Question, it: Multiply, program: Program) -> Iterator[Row]:
    """One launch that lasts, as far as the tensor cores' peak tells, LONG_MS or more; timed by the SMs' own counters."""
    if context.dry:
        yield {"status": NO_TIME}
        return
    operands = tuple(map(_drawn, question.shapes))
    count = int(LONG_MS * 1e6 / it.peak_clocks)  # a clock is a nanosecond or less
    plan = question.runs[0].plan(count)
    for _ in range(2):
        _, watch = jax.block_until_ready(context.launch(program, plan, *operands))
    yield from sustained_rows(it, count, np.asarray(watch))


def sustained_rows(it: Multiply, count: int, watch: np.ndarray) -> list[Row]:
    """Clock and rate of so many steps in every block."""
    nanoseconds = stopwatch.most_nanoseconds(watch)
    facts = {"ms": nanoseconds / 1e6, "steps": count, "source": "globaltimer"}
    rate = len(watch) * it.flops * count / nanoseconds / 1e3
    values = (stopwatch.gigahertz(watch), "GHz"), (rate, "TFLOP/s")
    named = zip(sustained_names(it), values, strict=True)
    return [{"name": name, "value": value, "unit": unit} | facts for name, (value, unit) in named]


def sustained_names(it: Multiply) -> tuple[str, str]:
    return f"sustained_clock_{it.kind}", f"sustained_rate_{it.kind}"

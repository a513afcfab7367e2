"""Measures speed: peaks of the device, and the programs of a layer beside each other, in turns."""

import contextlib
import dataclasses
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_conv.kernels import families
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.target import Target
from pallas_conv.verify import check, timing
from pallas_conv.verify.verdict import agree
from workloads.cases import Case
from workloads.served import computed

from . import gate, products
from .runner import SKIPPED, Context, Program, Row, Skipped, Step, log

GEMMS = {"bf16": "bfloat16", "f16": "float16", "tf32": "float32"}
LIBRARY = {"xla_gpu_enable_triton_gemm": False}  # to time the many candidates of the other takes half a minute
AGAIN_SECONDS = 120

# ------------------------------------------------------------ peaks


def peaks() -> list[Step]:
    """Peaks of memory, of tensor cores by the library's matrix product, and what a session of the profiler costs."""
    names = ("copy", *(f"gemm_{dtype}" for dtype in GEMMS))
    steps = [Step("peak", name, functools.partial(peak, name=name), seconds=60) for name in names]
    return [*steps, Step("peak", "cupti_session", session, seconds=60)]


def peak(context: Context, name: str) -> Iterator[Row]:
    unit, call, operands, work = _copying(context.dry) if name == "copy" else _multiplying(GEMMS[name[5:]], context.dry)
    found = timing.measure({name: call}, [operands])[name]
    yield {unit: work / found.ms / (1e6 if unit == "gbps" else 1e9), **dataclasses.asdict(found)}


def _copying(dry: bool) -> tuple[str, Any, tuple[jax.Array, ...], int]:
    n = 2**20 if dry else 2**28
    return "gbps", jax.jit(lambda x: -x), (jnp.ones(n, "float32"),), 8 * n


def _multiplying(dtype: str, dry: bool) -> tuple[str, Any, tuple[jax.Array, ...], int]:
    n = 256 if dry else 8192
    draw = jax.jit(lambda seed: jax.random.normal(jax.random.key(seed, impl="rbg"), (n, n), "float32").astype(dtype))
    operands = draw(0), draw(1)
    return "tflops", jax.jit(jnp.matmul).lower(*operands).compile(None if dry else LIBRARY), operands, 2 * n**3


def session(context: Context) -> Iterator[Row]:
    """Seconds that a session costs, the first one, and one that follows."""
    f, x = jax.jit(lambda x: x + 1).lower(jnp.zeros(8)).compile(), jnp.zeros(8)
    if context.device.platform != "gpu":
        raise Skipped("there is no CUPTI without a GPU")
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        timing.session(lambda: jax.block_until_ready(f(x)))
        seconds.append(time.perf_counter() - start)
    yield {"first_seconds": seconds[0], "seconds": seconds[1]}


def peak_rates(rows: list[Row]) -> dict[str, float]:
    """Bytes and operations a second, as a run measured them."""
    found = [r for r in rows if r["kind"] == "peak" and r["status"] == "ok" and {"gbps", "tflops"} & r.keys()]
    return {r["name"]: r["gbps"] * 1e9 if "gbps" in r else r["tflops"] * 1e12 for r in found}


def floor_ms(rows: list[Row], case: Case, direction: str) -> float | None:
    """The least time that the measured peaks allow, for useful work and the least traffic."""
    gemm = {"bfloat16": "gemm_bf16", "float16": "gemm_f16", "float32": "gemm_tf32"}[case.dtype]
    rates = peak_rates(rows)
    if not {gemm, "copy"} <= rates.keys():
        return None
    return 1e3 * max(case.flops(direction) / rates[gemm], case.nbytes(direction) / rates["copy"])


# ------------------------------------------------------------ stock alone, and compiled anew


def stock(case: Case, direction: str) -> Step:
    program, drawn = products.stock(case, direction), products.operands(case, direction)
    work = functools.partial(_stock, case=case, direction=direction, program=program, drawn=drawn)
    return Step("stock", f"{case.name}/{direction}", work, (program, drawn))


def _stock(context: Context, case: Case, direction: str, program: Program, drawn: Program) -> Iterator[Row]:
    built = context.compiled(program)
    (found,) = timing.measure({"stock": built.call}, _sets(context, case, direction, drawn)).values()
    yield {"compile_s": built.seconds, **_rates(context, case, direction, found)}


def spread(context: Context, arguments: list[str]) -> Iterator[Row]:
    """The same times of stock's programs by another process, which chooses cuDNN's algorithms anew."""
    before = {r["name"]: r["ms"] for r in context.log.rows if r["kind"] == "stock" and "ms" in r}
    file = context.log.path.with_suffix(".again")
    alone = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    words = [*arguments, "--in-process", "--only=stock", f"--file={file}", f"--minutes={AGAIN_SECONDS / 60}"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", *words], env=alone, capture_output=True, text=True, check=False
    )
    rows = [r for r in log.read(file) if r["kind"] == "stock" and "ms" in r and r["name"] in before]
    file.unlink(missing_ok=True)
    if not rows:
        raise RuntimeError(f"no stock program was timed again: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    for row in rows:
        times = row["ms"], before[row["name"]]
        yield {"name": row["name"], "ms": row["ms"], "first_ms": times[1], "ratio": max(times) / min(times)}


# ------------------------------------------------------------ programs beside each other


def compare(case: Case, direction: str, target: Target, gpu: Gpu, dry: bool) -> Step:
    """Stock, the best lax programs where they are others, and ours where a kernel serves the product."""
    wanted = {"stock": products.stock(case, direction)}
    if best := products.best(case, direction, target):
        wanted["best"] = best
    if beside := products.best_beside(case, direction, target):
        wanted["beside"] = beside
    timed = direction == "fb" or not dry  # an interpreted kernel has no time
    if timed and any(products.served(case, d) for d in (case.products() if direction == "fb" else [direction])):
        wanted["ours"] = products.ours(case, direction, gpu)
    comparison = Comparison(case, direction, target, wanted, products.operands(case, direction))
    needed = (*wanted.values(), comparison.drawn, *gate.poisoning())
    return Step("time", f"{case.name}/{direction}", comparison, needed, again=True)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The work of a step: programs of a case on the same operands, first held against stock's, then timed in turns.

    wanted  the programs by their names, stock's first
    drawn   draws the operands
    """

    case: Case
    direction: str
    target: Target
    wanted: Mapping[str, Program]
    drawn: Program

    def __call__(self, context: Context) -> Iterator[Row]:
        operands = _sets(context, self.case, self.direction, self.drawn)
        rows = {impl: self._untimed(context, impl) for impl in (*self.wanted, *self._absent)}
        results: dict[str, Any] = {}
        yield from gate.poison(context)
        ours_first = sorted(self.wanted, key=lambda impl: impl != "ours")  # while no memory holds the right result
        for impl in ours_first:
            with _told(impl, rows[impl]):
                results[impl] = self._launched(context, impl, operands[0], rows[impl])
        for impl, got in results.items():
            with _told(impl, rows[impl]):
                rows[impl] |= self._held(impl, operands[0], got, results["stock"], context.seed)
        results.clear()
        right = [impl for impl, row in rows.items() if "status" not in row]
        for impl, row in self._timed(context, operands, right).items():
            rows[impl] |= row
        yield from ({"impl": impl} | row for impl, row in rows.items())

    @property
    def _absent(self) -> list[str]:
        """Programs that get a row though they cannot be timed: ours, of every single product, to say why."""
        return ["ours"] if self.direction != "fb" and "ours" not in self.wanted else []

    def _untimed(self, context: Context, impl: str) -> Row:
        """Facts of a row that are known before anything runs."""
        if impl != "ours" or self.direction == "fb":
            return {}
        row: Row = {"lax": products.formulation(self.case, self.direction, self.target)}
        if beside := products.beside(self.case.products()[self.direction], self.target):
            row["lax_beside"] = beside
        if impl in self.wanted:
            return row
        reasons = families.reasons(self.case.products()[self.direction], context.capability)
        return row | ({"status": "unsupported", "reasons": reasons} if reasons else {"status": NO_TIME})

    def _launched(self, context: Context, impl: str, operands: tuple[Any, ...], row: Row) -> Any:
        built = context.compiled(self.wanted[impl])
        row |= {"compile_s": built.seconds, **built.about}
        got = jax.block_until_ready(context.launch(self.wanted[impl], *operands, impl=impl))
        context.alive()
        return got

    def _held(self, impl: str, operands: tuple[Any, ...], got: Any, baseline: Any, seed: int) -> Row:
        """The comparison of results with stock's, coarsely; of one product some places are held against float64, too.

        Gradients of a training step are compared, but not held to it: where a sum rounds to either side of zero, relu's differ.
        """
        if impl == "stock":
            return {}
        case, ours, usual = self.case, jax.tree.leaves(got), jax.tree.leaves(baseline)
        (right, part), *others = (agree(a, b, case.dtype) for a, b in zip(ours, usual, strict=True))
        row: Row = {"difference": part} | ({"gradient_difference": max(p for _, p in others)} if others else {})
        product = case.products().get(self.direction)
        if product and computed(product) and not any(map(any, case.border)):
            held = check.hold(product, tuple(case.as_product(self.direction, operands)), ours, usual, seed)
            row, right = row | dataclasses.asdict(held.worst), held.right
        return row | ({} if right else {"status": "wrong"})

    def _timed(self, context: Context, operands: list[tuple[jax.Array, ...]], right: list[str]) -> dict[str, Row]:
        """Times of the programs that are right. None is reported for a wrong result."""
        built = {impl: context.compiled(self.wanted[impl]) for impl in right}
        about = built["ours"].about if "ours" in built else {}
        context.alive(impl="in turns", kernel="ours" in built, **about)
        times = timing.measure({impl: it.call for impl, it in built.items()}, operands)
        rows = {
            impl: _rates(context, self.case, self.direction, found) | _ratios(impl, times)
            for impl, found in times.items()
        }
        rival = "best" if "best" in self.wanted else "stock"
        if {"ours", rival} <= times.keys() and self.direction != "fb":
            lax = times[rival]
            rows["ours"] |= {"lax_ms": lax.ms, "lax_us": 1e3 * lax.ms, "kernel_us": 1e3 * times["ours"].ms}
            if "beside" in times:
                rows["ours"]["lax_beside_us"] = 1e3 * times["beside"].ms
        return rows


NO_TIME = f"{SKIPPED}an interpreted kernel has no time"


@contextlib.contextmanager
def _told(impl: str, row: Row) -> Iterator[None]:
    """Tell of a program's error in its row. The others go on, unless it was stock's or took the device down."""
    try:
        yield
    except Exception as error:
        row |= _failed(error)
        if impl == "stock" or (row["status"] == "error" and check.lost()):
            raise


def _failed(error: Exception) -> Row:
    return {"status": f"{SKIPPED}{error}"} if isinstance(error, Skipped) else log.error(error)


def _sets(context: Context, case: Case, direction: str, drawn: Program) -> list[tuple[jax.Array, ...]]:
    """Sets of operands, so many that none is found in the cache."""
    count = 2 if context.dry else timing.copies(case.nbytes(direction))
    draw = context.compiled(drawn).call
    return [jax.block_until_ready(draw(np.uint32(context.seed + i))) for i in range(count)]


def _rates(context: Context, case: Case, direction: str, found: timing.Timing) -> Row:
    floor = floor_ms(context.log.rows, case, direction)
    return {
        **dataclasses.asdict(found),
        "tflops": case.flops(direction) / found.ms / 1e9,
        "gbps": case.nbytes(direction) / found.ms / 1e6,
        **({"floor_ms": floor, "fraction": floor / found.ms} if floor else {}),
    }


def _ratios(impl: str, times: Mapping[str, timing.Timing]) -> Row:
    """Stock's time divided by this program's; for ours also that of the faster of the others."""
    if impl == "stock":
        return {}
    row = {"ratio": times["stock"].ms / times[impl].ms}
    least = min(times[other].ms for other in ("stock", "best", "beside") if other in times)
    return row | ({"ratio_best": least / times[impl].ms} if impl == "ours" else {})

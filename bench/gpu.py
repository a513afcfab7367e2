"""Everything worth asking of a GPU, most valuable first: `python -m bench.gpu --minutes 9` from the root of a checkout.

It needs JAX, equinox and NumPy, no network and no installation. One process does the work and another watches it, so that a
kernel that hangs or takes the CUDA context down costs one result: the work goes on in a fresh process with the next one.
Each result is appended to a file of JSON lines at once (--out, else $OUT, else bench/results/); a table comes last. The
exit status is 1 if anything was wrong, failed, hung or crashed, 2 if there is no GPU, 3 if time was too short or no kernel
was checked.

Without a GPU, --dry-run takes the same steps on the CPU: interpreted kernels on tiny problems, stock layers at CPU sizes.

Every row has a kind, a name, a status and t, seconds since the start. Statuses: "ok"; "wrong" (a result is); "error"
(exception, traceback); "hung", "crashed" (exception); "unsupported" (reasons); "skipped: why". Kinds:

    run          arguments, first; what the watching process has to say
    device       versions, GPU, driver, clocks, commit, fingerprint of the kernels' source
    probe        name of a bench.probes.Probe, detail
    compile      "<number of steps>_from_<kind>_<name>": programs, which were compiled side by side, since one by one they
                 would take most of the time
    correctness  "<problem>/<f|d|w>": error, bound, baseline_error, largest, deterministic, config, variant
    peak         "copy": gbps. "gemm_<dtype>": tflops
    time         "<case>/<f|d|w|fb>", impl "stock", "best" (the converted layer without kernels, where its lax program is
                 not stock's) or "ours" (the kernel; of fb the converted layer under ("mosaic", "auto")): ms and the rest
                 of verify.timing.Timing, compile_s (beside others), tflops (useful ones), gbps (of the least traffic),
                 floor_ms, fraction (of the floor: 1 is perfect); of best and ours ratio (stock's time by theirs),
                 difference (from stock, a part of the largest; of fb gradient_difference, too), and of one product error
                 and bound at some pixels; of ours ratio_best (of the faster of the others)
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import queue
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
BAD = ("wrong", "error", "hung", "crashed")
OUT_OF_TIME = "skipped: out of time"
BEGIN = "@begin"  # "@begin <index> <kind> <name>": the worker says what it starts
NO_GPU, FOUND_BAD, LOST = 2, 3, 70  # exit statuses of a worker; LOST: the device no longer answers
INCOMPLETE = 3  # of the whole
PIXELS = 64  # of a product at full size that float64 judges
SPARE_SECONDS = 4  # no step starts with less time than this
START_SECONDS = 150  # from a worker's start to its first step
STEP_SECONDS = 60  # a step that takes longer hangs
COMPILE_SECONDS = 240  # but not so soon where it is the programs of the next AHEAD steps that are compiled
AHEAD = 32
GRACE_SECONDS = 25  # so does one that is not done this long after the end
LEAST_SECONDS = 20  # but a worker has this long to start and say what is skipped
HOPPER = (9, 0)

Row = dict[str, Any]
Job = tuple[Any, str]  # a case and a direction


@dataclasses.dataclass
class Context:
    """What the steps of one worker share."""

    options: argparse.Namespace
    peaks: dict[str, float] = dataclasses.field(default_factory=dict)
    programs: dict[tuple[str, str, str], tuple[Any, float]] = dataclasses.field(default_factory=dict)  # compiled ahead

    @functools.cached_property
    def device(self) -> Any:
        import jax

        return jax.devices()[0]

    @property
    def seconds_left(self) -> float:
        return self.options.started + 60 * self.options.minutes - time.time()

    @property
    def dry(self) -> bool:
        return self.options.dry_run

    @property
    def capability(self) -> tuple[int, int] | None:
        if self.dry:
            return HOPPER  # the interpreter's
        major, minor = str(self.device.compute_capability).split(".")
        return int(major), int(minor)

    @property
    def num_sms(self) -> int:
        return 2 if self.dry else self.device.core_count

    def launch(self, product, *operands):
        """Our kernel with the configuration it chooses by itself."""
        from pallas_conv.kernels import choice
        from pallas_conv.kernels.launch import launch

        return launch(
            product, choice.choose(product, self.num_sms), *operands, num_sms=self.num_sms, interpret=self.dry
        )  # fmt: skip

    def wanted(self, case, direction) -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
        """What to compare: "stock", "best" if that is another, "ours" if there is one; each with its implementations."""
        import pallas_conv as pc
        from pallas_conv import formulations

        stock, converted = case.stock(direction), case.stock(direction, convert=pc.convert)
        found: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {"stock": (stock, ("xla",))}
        plans = list(pc.explain(converted, *_shapes(case, direction), device=self.device))
        if any(p.formulation != formulations.STOCK for p in plans) and all(p.formulation for p in plans):
            found["best"] = (converted, ("auto",))
        if direction != "fb" and not self.reasons(case, direction):
            found["ours"] = (case.ours(direction, self.launch), ("mosaic",))
        elif direction == "fb" and any(d in case.directions and not self.reasons(case, d) for d in "fd"):
            found["ours"] = (converted, ("mosaic", "auto"))
        return found

    def reasons(self, case, direction) -> list[str]:
        from pallas_conv.kernels import support

        return list(support.reasons(case.products()[direction], self.capability))

    def compile(self, case, direction, impl: str, f: Callable[..., Any], names: tuple[str, ...]) -> tuple[Any, float]:
        """The program, and the seconds its compilation took: it may have been ahead of this."""
        import jax

        import pallas_conv as pc

        key = case.name, direction, impl
        if key not in self.programs:
            start = time.perf_counter()
            with pc.implementation(names):
                program = jax.jit(f).lower(*_shapes(case, direction)).compile()
            self.programs[key] = program, time.perf_counter() - start
        return self.programs[key]


def _shapes(case, direction) -> tuple[Any, ...]:
    import jax

    return jax.eval_shape(lambda: case.arrays(direction))


@dataclasses.dataclass(frozen=True)
class Step:
    """Some work, and the rows it yields; they take its kind and name, and status "ok" unless they say otherwise.

    job: whose programs it needs, if they may be compiled ahead.
    """

    kind: str
    name: str
    work: Callable[[Context], Iterator[Row]]
    job: Job | None = None


# ------------------------------------------------------------ the steps


def describe(context: Context) -> Iterator[Row]:
    import jax

    packages = [
        "jax", "jaxlib", "equinox", "numpy", "jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12",
        "nvidia-cudnn-cu13", "nvidia-cublas-cu12", "nvidia-cublas", "nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc",
    ]  # fmt: skip
    device = context.device
    yield {
        "kind_of_device": device.device_kind,
        "platform": device.platform,
        "compute_capability": str(getattr(device, "compute_capability", None)),
        "sms": getattr(device, "core_count", None),
        "python": platform.python_version(),
        "versions": {name: v for name in packages if (v := _version(name))},
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "devices": len(jax.devices()),
        "gpu": _output("nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv"),
        "commit": _output("git", "rev-parse", "HEAD"),
        "changed": _output("git", "status", "--porcelain", "--untracked-files=no"),
        "kernels": _fingerprint(),
    }


GPU_FIELDS = (
    "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.draw,power.limit,temperature.gpu"
)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """What a command prints; None where there is no such command, or it fails."""
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None


def _fingerprint() -> str:
    from pallas_conv.kernels.support import fingerprint

    return fingerprint()


def probe(context: Context, name: str) -> Iterator[Row]:
    from . import probes

    (it,) = (p for p in probes.probes() if p.name == name)
    _, passed, detail = probes.check(it, interpret=context.dry)
    yield {"status": "ok" if passed else "wrong", "detail": detail}


def correct(context: Context, case: Any, direction: str) -> Iterator[Row]:
    import numpy as np

    from pallas_conv.verify.verdict import judge

    if reasons := context.reasons(case, direction):
        yield {"status": "unsupported", "reasons": reasons}
        return
    product = case.products()[direction]
    seed = int.from_bytes(os.urandom(3))
    operands = case.arrays(direction, seed)
    wanted = context.wanted(case, direction)
    stock, ours = (context.compile(case, direction, impl, *wanted[impl])[0] for impl in ("stock", "ours"))
    baseline, results = stock(*operands), []
    for _ in range(1 if context.dry else 2):
        poison(context.device)
        results.append(np.asarray(ours(*operands)))
    verdict = judge(product, operands, results[0], baseline)
    same = all((results[0] == other).all() for other in results[1:])
    yield {
        "status": "ok" if verdict.right and same else "wrong",
        "deterministic": same,
        "seed": seed,
        **dataclasses.asdict(verdict),
        **_choice(context, product),
    }


def poison(device: Any) -> None:
    """NaN in almost all free memory of a GPU: what a kernel leaves out of its result is then no right value from before."""
    import jax
    import jax.numpy as jnp

    stats = device.memory_stats() or {}
    size = int(0.9 * (stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)))
    while size >= 2**20:
        try:
            jax.block_until_ready(jnp.full(size // 4, 0x7FFF7FFF, "uint32", device=device))  # NaN as 16 bits, too
            return
        except jax.errors.JaxRuntimeError:  # no hole as large as that
            size //= 2


def compile_ahead(context: Context, jobs: list[Job]) -> int:
    """Side by side, and in a part of the time that is left: how many programs. A failure is told by the step it belongs to."""
    until = time.time() + min(COMPILE_SECONDS / 2, context.seconds_left / 3)

    def attempt(job: Job) -> int:
        done = 0
        with contextlib.suppress(Exception):
            for impl, how in context.wanted(*job).items():
                if time.time() < until:
                    context.compile(*job, impl, *how)
                    done += 1
        return done

    context.programs.clear()  # those of earlier steps
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(attempt, jobs))


def _choice(context: Context, product: Any) -> Row:
    from pallas_conv.kernels import choice, support

    return {"variant": support.variant(product), "config": str(choice.choose(product, context.num_sms))}


def peak(context: Context, name: str) -> Iterator[Row]:
    import jax
    import jax.numpy as jnp

    from pallas_conv.verify import timing

    if name == "copy":
        n = 2**20 if context.dry else 2**28
        f, operands, work = jax.jit(lambda x: -x), [(jnp.ones(n, "float32"),)], 8 * n
    else:
        n, dtype = 256 if context.dry else 8192, {"bf16": "bfloat16", "f16": "float16", "tf32": "float32"}[name[5:]]
        draw = jax.jit(
            lambda seed: jax.random.normal(jax.random.key(seed, impl="rbg"), (n, n), "float32").astype(dtype)
        )
        f, operands, work = jax.jit(jnp.matmul), [(draw(0), draw(1))], 2 * n**3
    found = timing.measure({name: f}, operands)[name]
    rate = work / found.ms / 1e6  # per nanosecond: GB/s, GFLOP/s
    context.peaks[name] = rate * 1e9
    yield {"gbps" if name == "copy" else "tflops": rate if name == "copy" else rate / 1e3, **dataclasses.asdict(found)}


def compare(context: Context, case: Any, direction: str) -> Iterator[Row]:
    """Stock, the best lax program where that is another, and ours where a kernel serves the product, in turns."""
    import jax

    from pallas_conv.verify import timing

    nbytes = case.nbytes(direction)
    count = 2 if context.dry else timing.copies(nbytes)
    operands = [jax.block_until_ready(case.arrays(direction, seed)) for seed in range(count)]
    wanted, rows = context.wanted(case, direction), {}
    if direction != "fb" and (reasons := context.reasons(case, direction)):
        rows["ours"] = {"status": "unsupported", "reasons": reasons}
    elif direction != "fb" and context.dry:
        del wanted["ours"]
        rows["ours"] = {"status": "skipped: an interpreted kernel has no time"}

    programs: dict[str, Any] = {}
    for impl, how in wanted.items():
        row = rows.setdefault(impl, {})
        try:
            if impl == "ours" and direction != "fb":
                row |= _choice(context, case.products()[direction])
            programs[impl], row["compile_s"] = context.compile(case, direction, impl, *how)
            if impl != "stock":
                row |= _compared(context, case, direction, operands[0], programs[impl], programs["stock"])
        except Exception as error:
            if impl == "stock":
                raise
            row |= _error(error)
            if _lost():  # nothing can be timed after that
                yield {"impl": impl} | row
                raise
        if row.get("status", "ok") in BAD:  # no time is reported for a wrong result
            programs.pop(impl, None)
    times = timing.measure(programs, operands)
    floor = _floor(context, case, direction)
    least = min(times[impl].ms for impl in ("stock", "best") if impl in times)
    for impl, found in times.items():
        rows[impl] |= {
            **dataclasses.asdict(found),
            "tflops": case.flops(direction) / found.ms / 1e9,
            "gbps": nbytes / found.ms / 1e6,
            **({"floor_ms": floor, "fraction": floor / found.ms} if floor else {}),
            **({"ratio": times["stock"].ms / found.ms} if impl != "stock" else {}),
            **({"ratio_best": least / found.ms} if impl == "ours" else {}),
        }
    for impl, row in rows.items():
        yield {"impl": impl} | row


def _compared(context: Context, case: Any, direction: str, operands: tuple[Any, ...], program: Any, stock: Any) -> Row:
    """Every result against stock's, coarsely; of one product some pixels against float64, too.

    Gradients of a training step are compared, but not held to it: where a sum rounds to either side of zero, relu's differ.
    """
    import jax

    from pallas_conv.verify.verdict import agree, judge_at, some_pixels

    baseline = jax.block_until_ready(stock(*operands))
    poison(context.device)
    got = program(*operands)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(baseline), strict=True)
    (right, part), *others = (agree(a, b, case.dtype) for a, b in pairs)
    row: Row = {"difference": part} | ({"gradient_difference": max(p for _, p in others)} if others else {})
    if direction in "fd" and not case.per_example and not any(map(any, case.border)):
        at = some_pixels(got.shape, PIXELS, int.from_bytes(os.urandom(3)))
        verdict = judge_at(case.products()[direction], at, operands, got, baseline)
        row, right = row | dataclasses.asdict(verdict), right and verdict.right
    return row | ({} if right else {"status": "wrong"})


def _floor(context: Context, case: Any, direction: str) -> float | None:
    """Milliseconds that the measured peaks allow at best, for useful work and the least traffic."""
    gemm = {"bfloat16": "gemm_bf16", "float16": "gemm_f16", "float32": "gemm_tf32"}[case.dtype]
    if not {gemm, "copy"} <= context.peaks.keys():
        return None
    seconds = case.flops(direction) / context.peaks[gemm], case.nbytes(direction) / context.peaks["copy"]
    return 1e3 * max(seconds)


def steps(options: argparse.Namespace) -> list[Step]:
    """All of them, in order: the same list in every worker of a run."""
    from pallas_conv.kernels import support

    from . import cases, correctness, probes

    def served(case, direction):
        return direction in case.directions and not support.reasons(case.products()[direction], HOPPER)

    problems = correctness.SMALL if options.dry_run else correctness.SMALL + correctness.MEDIUM
    problems = tuple(c for c in problems if re.search(options.problems, c.name))
    suite = [c for c in cases.suite() if re.search(options.cases, c.name)]
    layers = [small for c in suite if (small := c.on_cpu())] if options.dry_run else suite
    wanted = [(c, d) for d in ("f", "d", "w", "fb") for c in layers if d in c.directions or d == "fb"]
    wanted = [(c, d) for c, d in wanted if not (c.per_example and d == "fb")]
    wanted.sort(key=lambda job: not served(*job))  # stable: what a kernel of ours serves comes first

    do = lambda f, *args: functools.partial(f, **dict(zip(("case", "direction"), args, strict=True)))
    asked = probes.probes()
    if options.dry_run:
        asked = tuple({re.match("[a-z]+(_[a-z]+)?", p.name)[0]: p for p in asked if p.interpretable}.values())
    found = [Step("device", "device", describe)]
    found += [Step("probe", p.name, functools.partial(probe, name=p.name)) for p in asked]
    checks = [(c, d) for c in problems for d in c.directions]
    checks.sort(key=lambda job: not served(*job))
    correctness_of = lambda some: [
        Step("correctness", f"{c.name}/{d}", do(correct, c, d), (c, d) if served(c, d) else None) for c, d in some
    ]
    time_of = lambda some: [  # interpreted kernels are not timed, so need not be compiled
        Step("time", f"{c.name}/{d}", do(compare, c, d), None if options.dry_run else (c, d)) for c, d in some
    ]
    small, first = [c for c in checks if c[0] in correctness.SMALL], [job for job in wanted if served(*job)]
    found += correctness_of(small)
    found += [Step("peak", n, functools.partial(peak, name=n)) for n in ("copy", "gemm_bf16", "gemm_f16", "gemm_tf32")]
    found += time_of(first)  # which are held against float64 at their own size, too
    found += correctness_of([c for c in checks if c not in small]) + time_of(
        [job for job in wanted if job not in first]
    )
    kinds = ["device", *options.only.split(",")] if options.only else []
    return [s for s in found if not kinds or s.kind in kinds]


# ------------------------------------------------------------ the worker


class Log:
    """Rows, appended to a file at once and said in one line each."""

    def __init__(self, options: argparse.Namespace):
        self.path, self.started = options.file, options.started

    def __call__(self, kind: str, name: str, row: Row) -> Row:
        row = {"kind": kind, "name": name, "status": "ok", "t": round(time.time() - self.started, 2)} | row
        with self.path.open("a") as file:
            file.write(json.dumps(_strict(row), default=str, allow_nan=False) + "\n")
        parts = (f"{k}={v:.4g}" for k in SAID if isinstance(v := row.get(k), (int, float)))
        told = [f"{row['t']:7.1f} s", kind, name, row.get("impl", ""), row["status"], *parts, row.get("exception", "")]
        print(*(str(word) for word in told if word), flush=True)
        return row


def _strict(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


SAID = ("ms", "ratio", "ratio_best", "fraction", "tflops", "gbps", "error", "bound", "difference")


def _error(error: BaseException) -> Row:
    trace = "".join(traceback.format_exception(error))
    return {"status": "error", "exception": f"{type(error).__name__}: {error}"[:500], "traceback": trace[-4000:]}


def work(options: argparse.Namespace, first: int = 0) -> int:
    """Take the steps from the first on; 0, FOUND_BAD or LOST."""

    log, context, status = Log(options), Context(options, _peaks(options.file)), 0
    every, compiled = steps(options), first
    for i, step in enumerate(every):
        if i < first:
            continue
        if step.job and i >= compiled and not options.one_by_one and context.seconds_left > STEP_SECONDS:
            compiled = i + AHEAD
            jobs = [s.job for s in every[i:compiled] if s.job]
            name = f"{len(jobs)}_from_{step.kind}_{step.name}"
            print(BEGIN, i, "compile", name, flush=True)
            log("compile", name, {"programs": compile_ahead(context, jobs)})
        print(BEGIN, i, step.kind, step.name, flush=True)
        if context.seconds_left < SPARE_SECONDS:
            log(step.kind, step.name, {"status": OUT_OF_TIME})
            continue
        try:
            for row in step.work(context):
                if log(step.kind, step.name, row)["status"] in BAD:
                    status = FOUND_BAD
        except Exception as error:
            status = FOUND_BAD
            log(step.kind, step.name, _error(error))
            if lost := _lost():
                log("run", "device lost", _error(lost))
                return LOST
    return status


def _lost() -> Exception | None:
    """What the device answers if it no longer does anything else: a kernel took the CUDA context down."""
    import jax

    try:
        jax.block_until_ready(jax.device_put(0.0) + 1)
    except Exception as error:
        return error
    return None


def _peaks(path: pathlib.Path) -> dict[str, float]:
    """Peaks that an earlier worker of this run measured."""
    rows = [r for r in _rows(path) if r["kind"] == "peak" and r["status"] == "ok"]
    return {r["name"]: r["gbps"] * 1e9 if "gbps" in r else r["tflops"] * 1e12 for r in rows}


def _rows(path: pathlib.Path) -> list[Row]:
    """Of a run so far; what a worker was killed in the middle of is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def incomplete(rows: list[Row]) -> str:
    """What is missing, or ""."""
    late = sum(r["status"] == OUT_OF_TIME for r in rows)
    checks = [r["status"] for r in rows if r["kind"] == "correctness"]
    unchecked = bool(checks) and not {"ok", *BAD} & set(checks)
    return "; ".join([f"no time for {late} steps"] * bool(late) + ["no kernel was checked"] * unchecked)


# ------------------------------------------------------------ the watching process


def watch(options: argparse.Namespace) -> int:
    """Run workers until every step is taken, a new one after each that hung or died; 0, 1 or NO_GPU."""
    log, first, bad = Log(options), 0, 0
    env = {"NPROC": "16", "PYTHONUNBUFFERED": "1"} | os.environ
    while True:
        at, status = _follow(_command(options, first), env, options.started + 60 * options.minutes + GRACE_SECONDS)
        if status == 0:
            return bad
        if status == NO_GPU:
            log("run", "worker", {"status": "error", "exception": "no GPU"})
            return NO_GPU
        bad = 1
        if status == FOUND_BAD:
            return bad
        if at is None:
            log("run", "worker", {"status": "crashed", "exception": f"exit status {status} before the first step"})
            return 1
        index, kind, name = at
        if status is None:
            log(kind, name, {"status": "hung", "exception": "killed"})
        elif status != LOST:
            log(kind, name, {"status": "crashed", "exception": f"exit status {status}"})
        first = index + 1
        if kind == "compile":  # whichever program it was: the step that needs it will say
            first = index
            options.arguments.append("--one-by-one")


def _command(options: argparse.Namespace, first: int) -> list[str]:
    return [sys.executable, "-m", "bench.gpu", "--worker", str(first), *options.arguments]


def _follow(command: list[str], env: dict[str, str], end: float) -> tuple[tuple[int, str, str] | None, int | None]:
    """Run a worker: the last step it began, and its exit status, None if it hung and was killed."""

    def deadline(allowed: float) -> float:
        return time.time() + max(LEAST_SECONDS, min(allowed, end - time.time()))

    worker = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    assert worker.stdout
    lines: queue.Queue[str | None] = queue.Queue()

    def read():
        for line in worker.stdout:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    at, began, until = None, time.time(), deadline(START_SECONDS)
    try:
        while True:
            line = lines.get(timeout=max(0.01, until - time.time()))
            if line is None:
                return at, worker.wait()
            if line.startswith(BEGIN + " "):
                _, index, kind, name = line.split()
                at, began = (int(index), kind, name), time.time()
                until = deadline(COMPILE_SECONDS if kind == "compile" else STEP_SECONDS)
            else:
                print(line, end="", flush=True)
    except queue.Empty:
        print(f"killed after {time.time() - began:.0f} s", flush=True)
        return at, None
    finally:
        if worker.poll() is None:
            worker.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold on to a dead process
            worker.wait(timeout=10)
            reader.join()
            worker.stdout.close()


# ------------------------------------------------------------ the table


def table(rows: list[Row]) -> str:
    """What a reader wants first: where it ran, what was wrong, and ours beside the rest; ratio: to the faster of those."""
    lines = []
    for r in rows:
        if r["kind"] == "device" and r.get("platform") != "gpu":
            lines.append("NOT A GPU: the times below only show that the script runs")
        if r["kind"] == "device" and r["status"] == "ok":
            lines.append(f"{r['kind_of_device']}, {r['versions']}, kernels {r['kernels']}, commit {r['commit']}")
    counts: dict[str, dict[str, int]] = {}
    for r in rows:
        of = counts.setdefault(r["kind"], {})
        of[r["status"]] = of.get(r["status"], 0) + 1
    lines += [f"{kind:12} " + ", ".join(f"{n} {s}" for s, n in sorted(of.items())) for kind, of in counts.items()]
    for r in rows:
        if r["kind"] == "peak" and r["status"] == "ok":
            lines.append(
                f"peak {r['name']:10} " + (f"{r['gbps']:.0f} GB/s" if "gbps" in r else f"{r['tflops']:.1f} TFLOP/s")
            )
    bad = [r for r in rows if r["status"] in BAD]
    lines += [f"BAD  {r['kind']} {r['name']} {r.get('impl', '')}: {r['status']} {_why(r)}" for r in bad]
    times: dict[str, dict[str, Row]] = {}
    for r in rows:
        if r["kind"] == "time" and "ms" in r:
            times.setdefault(r["name"], {})[r["impl"]] = r
    if times:
        lines.append(
            f"{'case':24} {'stock ms':>10} {'best ms':>10} {'ours ms':>10} {'ratio':>6} {'TFLOP/s':>8} {'GB/s':>7} "
            f"{'of floor':>8}"
        )
    for name, by in times.items():
        last = by.get("ours") or by.get("best") or by["stock"]
        ms = " ".join(f"{by[impl]['ms']:10.4f}" if impl in by else f"{'-':>10}" for impl in ("stock", "best", "ours"))
        ratio, part = (f"{last[k]:{f}}" if k in last else "-" for k, f in (("ratio_best", ".2f"), ("fraction", ".1%")))
        lines.append(f"{name:24} {ms} {ratio:>6} {last['tflops']:8.1f} {last['gbps']:7.0f} {part:>8}")
    return "\n".join(lines)


def _why(row: Row) -> str:
    return str(row.get("exception") or row.get("detail") or "")[:160]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.gpu", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--minutes", type=float, default=9, help="start nothing after these (%(default)s)")
    add(
        "--out",
        type=pathlib.Path,
        default=os.environ.get("OUT") or ROOT / "bench" / "results",
        help="folder of the results",
    )
    add("--cases", default="", help="regular expression: the layers of the suite to time (all)")
    add("--problems", help="regular expression: the problems of the correctness gate (all; a few in a dry run)")
    add("--only", default="", help="kinds of steps, comma-separated: probe,correctness,peak,time (all)")
    add("--dry-run", action="store_true", help="the same steps on the CPU, small")
    add("--in-process", action="store_true", help="do the work in this process, with nobody watching")
    add("--one-by-one", action="store_true", help="compile each program when its turn comes, none ahead")
    add("--worker", type=int, help=argparse.SUPPRESS)
    add("--file", type=pathlib.Path, help=argparse.SUPPRESS)
    add("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.out = pathlib.Path(options.out).resolve()
    if options.problems is None:
        options.problems = "odd_channels|stride_2|1d" if options.dry_run else ""
    if options.file is None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        options.file = options.out / f"gpu-{now}{'-dry-run' * options.dry_run}.jsonl"
    flags = {"--minutes": options.minutes, "--out": options.out, "--file": options.file, "--started": options.started}
    flags |= {"--cases": options.cases, "--problems": options.problems, "--only": options.only}
    options.arguments = [f"{flag}={value}" for flag, value in flags.items()] + ["--dry-run"] * options.dry_run
    options.arguments += ["--one-by-one"] * options.one_by_one
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.worker is not None or options.in_process:
        import jax

        if options.dry_run:
            jax.config.update("jax_platforms", "cpu")
        elif jax.default_backend() != "gpu":
            print("bench.gpu: JAX sees no GPU here; --dry-run takes the same steps on the CPU", file=sys.stderr)
            return NO_GPU
    if options.worker is not None:
        return work(options, options.worker)
    options.out.mkdir(parents=True, exist_ok=True)
    Log(options)("run", "arguments", {"arguments": options.arguments})
    status = (1 if work(options) else 0) if options.in_process else watch(options)
    rows = _rows(options.file)
    print(table(rows), f"\nresults: {options.file}", sep="\n")
    if missing := incomplete(rows):
        print(f"INCOMPLETE: {missing}")
    return status or (INCOMPLETE if missing else 0)


if __name__ == "__main__":
    sys.exit(main())

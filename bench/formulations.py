"""Times every lax program of every product on this CPU: the measurements behind the rules of `pallas_conv.formulations`.

    python -m bench.formulations suite  --out bench/results/formulations_suite.jsonl
    python -m bench.formulations random --seed 1 --count 150 --out bench/results/formulations_random.jsonl
    python -m bench.formulations dense  --dtype bfloat16 --count 60 --out bench/results/formulations_dense.jsonl

One JSON line a product: layer, direction, threads, product, ms {formulation: median}, chosen (by the rules of today); a first
line names the machine. Programs are interleaved in one run. One that takes three times as long as the fastest is not repeated.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from tqdm import tqdm

from pallas_conv import formulations
from pallas_conv.target import this_cpu
from workloads.cases import Case, suite
from workloads.layers import dense_layers, random_layers
from workloads.programs import operands, programs

CPU = this_cpu()
BATCHES = (1, 2, 8)
HOPELESS = 3  # times the fastest
HALF_PRECISION = (  # one layer of each family
    "unet_mid", "convnext_s3", "effnet_dw5_s2", "resnext_g32", "stylegan_up", "nnunet_hi", "nnunet_up", "mamba_k4",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Facts about this machine that measurements depend on."""
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=False)
    model = [line for line in run(["lscpu"]).stdout.splitlines() if line.startswith("Model name")]
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.processor(),
        "threads": len(os.sched_getaffinity(0)),
        "amx": CPU.amx,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "equinox", "numpy")},
        "commit": run(["git", "describe", "--always", "--dirty"]).stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def medians(fs: Mapping[str, Callable[..., Any]], args: Iterable[Any], seconds: float) -> dict[str, float]:
    """Milliseconds of each, interleaved for about `seconds`; those far behind after two rounds run no more."""
    args = list(args)
    for f in fs.values():
        jax.block_until_ready(f(*args))
    times: dict[str, list[float]] = {name: [] for name in fs}
    racing, start = dict(fs), time.perf_counter()
    while len(times[next(iter(racing))]) < 3 or time.perf_counter() - start < seconds:
        for name, f in racing.items():
            now = time.perf_counter()
            jax.block_until_ready(f(*args))
            times[name].append(1e3 * (time.perf_counter() - now))
        if len(times[next(iter(racing))]) == 2:
            best = min(min(t) for t in times.values())
            racing = {name: f for name, f in racing.items() if min(times[name]) < HOPELESS * best}
        if sum(map(len, times.values())) > 60 * len(fs):
            break
    return {name: round(statistics.median(t), 5) for name, t in times.items()}


def suite_layers(threads: int) -> Iterator[Case]:
    for case in suite():
        small = case.on_cpu()
        if small is None:
            continue
        batches = BATCHES if threads > 1 and not small.per_example else (small.batch,)
        for batch in batches:
            yield dataclasses.replace(small, name=f"{small.name}/n{batch}", batch=batch)
        for dtype in ("bfloat16", "float16") if threads > 1 and small.name in HALF_PRECISION else ():
            yield dataclasses.replace(small, name=f"{small.name}/{dtype}", dtype=dtype)


def measure(case: Case, direction: str, seconds: float, *, every: bool) -> dict[str, Any]:
    product = dataclasses.replace(case.products()[direction], bias=False, activation=None)
    fs = programs(product)
    chosen, _ = formulations.choose(product, CPU)
    if not every:
        fs = {name: f for name, f in fs.items() if name in (formulations.STOCK, chosen)}
    ms = medians(fs, operands(product), seconds)
    return {
        "layer": case.name, "direction": direction, "threads": len(os.sched_getaffinity(0)), "ms": ms, "chosen": chosen,
        "product": dataclasses.asdict(product),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.formulations", description=__doc__.splitlines()[0])
    parser.add_argument("layers", choices=("suite", "random", "dense"))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the random layers")
    parser.add_argument("--count", type=int, default=150, help="of the random layers")
    parser.add_argument("--dtype", default="float32", help="of the dense layers (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[""], help="layers whose name contains one of these")
    parser.add_argument("--directions", default="fdw", help="some of f, d and w (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.2, help="a product")
    parser.add_argument(
        "--every", action="store_true", help="every formulation, not the chosen one alone, of layers that are drawn"
    )
    args = parser.parse_args(argv)
    threads = len(os.sched_getaffinity(0))
    drawn = {
        "suite": lambda: suite_layers(threads),
        "random": lambda: random_layers(args.count, args.seed),
        "dense": lambda: dense_layers(args.count, args.seed, args.dtype),
    }
    layers = list(drawn[args.layers]())
    asked_for = [case for case in layers if any(part in case.name for part in args.only)]
    work = [(case, d) for case in asked_for for d in case.directions if d in args.directions]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as out:
        asked = {name: value for name, value in vars(args).items() if name != "out"}
        print(json.dumps({"machine": machine(), "arguments": asked}), file=out, flush=True)
        for case, direction in tqdm(work, unit="product"):
            row = measure(case, direction, args.seconds, every=args.every or args.layers == "suite")
            print(json.dumps(row), file=out, flush=True)
            jax.clear_caches()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Convolutions in loops on this CPU: stock equinox, and the same models through `pallas_conv.convert`.

    python -m bench.loops --out out/loops_cpu.json

Recurrent cells, training loops, rollouts and solvers are `lax.scan`s over convolutions. Both programs start from the same
operands and take turns; where their results disagree no time is reported.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from tqdm import tqdm

import pallas_conv as pc
from workloads.loops import LOOPS, Loop

from .formulations import machine
from .networks import relative_difference

LEAST_RUNS = 3
TOLERANCE = 1e-4  # of all results together, relative: steps follow one another, and rounding with them


def measure(loop: Loop, seconds: float) -> dict[str, Any]:
    """One row: how far results are apart, milliseconds of both, and stock's by ours, pair by pair."""
    build, draw = jax.random.split(jax.random.key(0))
    stock, x = loop.build(build), loop.inputs(draw)
    run = eqx.filter_jit(loop.run)
    ours = pc.convert(stock)
    programs = [lambda: run(stock, x), lambda: run(ours, x)]
    difference = relative_difference(*[jax.block_until_ready(program()) for program in programs])
    row = {"name": loop.name, "difference": difference}
    if not difference <= TOLERANCE:
        return row | {"status": "wrong"}
    times: list[tuple[float, ...]] = []
    start = time.perf_counter()
    while len(times) < LEAST_RUNS or time.perf_counter() - start < seconds:
        order = (0, 1) if len(times) % 2 else (1, 0)
        pair = {i: milliseconds(programs[i]) for i in order}
        times.append((pair[0], pair[1]))
    low, ratio, high = np.percentile([a / b for a, b in times], [25, 50, 75]).tolist()
    stock_ms, ours_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return row | {
        "status": "ok", "runs": len(times), "stock_ms": stock_ms, "ours_ms": ours_ms, "ratio": ratio, "low": low, "high": high,
    }  # fmt: skip


def milliseconds(program: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program())
    return 1e3 * (time.perf_counter() - start)


def summary(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['name']:38} WRONG: {row['difference']:.1e} apart"
    return f"{row['name']:38} {row['stock_ms']:8.1f} ms stock {row['ours_ms']:8.1f} ms ours {row['ratio']:6.1f}x"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.loops", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("out/loops_cpu.json"), help="the JSON document"
    )
    parser.add_argument("--seconds", type=float, default=15, help="of timed runs, a loop (default: %(default)s)")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": machine(), "loops": []}
    for loop in tqdm(LOOPS, unit="loop"):
        document["loops"].append(measure(loop, args.seconds))
        tqdm.write(summary(document["loops"][-1]))
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row["status"] != "ok" for row in document["loops"]))


if __name__ == "__main__":
    sys.exit(main())

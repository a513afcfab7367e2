"""Draws what `make bench` measured: python -m bench.chart bench/results/layers_cpu.json docs/cpu.png"""

import argparse
import json
import math
import pathlib
import statistics
import sys
from typing import Any

import matplotlib

from .cases import Case, suite

COLOURS = {
    "transposed": "tab:blue",
    "depthwise": "tab:orange",
    "grouped": "tab:red",
    "dense 3-D": "tab:green",
    "dense": "tab:grey",
}


def family(case: Case) -> str:
    if case.transposed:
        return "transposed"
    if case.groups > 1:
        return "depthwise" if case.groups == case.in_channels else "grouped"
    return "dense 3-D" if case.ndim == 3 else "dense"


def steps(results: dict[str, Any]) -> dict[str, float]:
    """Stock's time by ours, of forward and backward together where both were measured, by layer."""
    rows = [b["extra_info"] for b in results["benchmarks"]]
    return {r["layer"]: r["ratio"] for r in rows if r["direction"] == "fb" and r["dtype"] == "float32"}


def means(ratios: dict[str, float]) -> dict[str, float]:
    cases = {c.name: c for c in suite()}
    logs: dict[str, list[float]] = {name: [] for name in COLOURS}
    for name, r in ratios.items():
        logs[family(cases[name])].append(math.log(r))
    return {name: math.exp(statistics.mean(found)) for name, found in logs.items() if found}


def draw(results: dict[str, Any], out: pathlib.Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases, ratios = {c.name: c for c in suite()}, steps(results)
    order = sorted(ratios, key=lambda n: (-list(COLOURS).index(family(cases[n])), ratios[n]))
    figure, axes = plt.subplots(figsize=(9, 0.24 * len(order) + 1.5), layout="constrained")
    for y, name in enumerate(order):
        axes.barh(y, ratios[name] - 1, left=1, color=COLOURS[family(cases[name])])
        axes.annotate(
            f"{ratios[name]:.2g}x", (max(ratios[name], 1), y), (3, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(order)), [f"{n}  ({cases[n].network})" for n in order], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlim(right=max(ratios.values()) * 2)
    axes.margins(y=0.01)
    info = results["benchmarks"][0]["extra_info"]
    cpu = results["machine_info"].get("cpu", {}).get("brand_raw", results["machine_info"].get("processor", ""))
    axes.set_xlabel("speed of a training step of one layer, stock equinox = 1 (float32, forward and backward)")
    axes.set_title(f"{cpu}, {info['threads']} threads, JAX {info['jax']}", fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[n]) for n in means(ratios)]
    labels = [f"{n}: {m:.2g}x in geometric mean" for n, m in means(ratios).items()]
    axes.legend(handles, labels, loc="lower right", fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.chart", description=__doc__)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args(argv)
    results = json.loads(args.results.read_text())
    draw(results, args.out)
    print("\n".join(f"{name:12} {mean:6.2f}x" for name, mean in means(steps(results)).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

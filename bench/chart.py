"""Draws what `make bench` measured, and prints it: python -m bench.chart out/layers_cpu.json out/cpu.png"""

import argparse
import collections
import json
import pathlib
import statistics
import sys
from collections.abc import Iterable
from typing import Any

from workloads.cases import Case

type Row = dict[str, Any]

COLOURS = {
    "transposed": "#2a78b5",
    "depthwise": "#e08a1e",
    "grouped": "#c8443c",
    "dense 3-D": "#3f9a4d",
    "dense 1-D and 2-D": "#8a8f98",
}
HEAVY = ("transposed", "depthwise", "grouped", "dense 3-D")  # the families that XLA's CPU compiler is slow at
ALONE = {"f": "forward alone", "d": "input gradient alone", "w": "weight gradient alone"}
PROGRAMS = {"ours": "ours", "best": "best", "torch": "PyTorch"}  # best: of all formulations


def family(case: Case) -> str:
    if case.transposed:
        return f"transposed {case.ndim}-D"
    if case.groups == case.in_channels > 1:
        if max(case.stride) > 1:
            return "depthwise strided"
        return "depthwise " + ("x".join(map(str, case.kernel_size)) if case.ndim == 2 else f"{case.ndim}-D")
    if case.groups > 1:
        return "grouped"
    return "dense 1x1" if max(case.kernel_size) == 1 else f"dense {case.ndim}-D"


def group(name: str) -> str:
    """The families that share a colour."""
    return next((g for g in COLOURS if name.startswith(g)), "dense 1-D and 2-D")


def rows(results: Row) -> list[Row]:
    """A training step of every layer in float32, by family; what was measured alone of a layer stands in for it."""
    found = [b["extra_info"] for b in results["benchmarks"] if b["extra_info"]["dtype"] == "float32"]
    measured = collections.Counter(r["layer"] for r in found)
    found = [r for r in found if r["direction"] == "fb" or measured[r["layer"]] == 1]
    found = [r if r["direction"] == "fb" else r | {"family": ALONE[r["direction"]]} for r in found]
    return sorted(found, key=lambda r: (list(COLOURS).index(group(r["family"])), -ratio(r, "ours")))


def ratio(row: Row, program: str) -> float:
    """Stock's time divided by the program's; NaN where it was not measured."""
    return row["stock_ms"] / (row[f"{program}_ms"] or float("nan"))


def mean(found: Iterable[Row], program: str) -> float:
    """The geometric mean over the layers for which the program was measured; NaN for none."""
    ratios = [ratio(r, program) for r in found if r[f"{program}_ms"]]
    return statistics.geometric_mean(ratios) if ratios else float("nan")


def number(x: float) -> str:
    return "-" if x != x else f"{x:.0f}x" if x >= 99.5 else f"{x:.1f}x" if x >= 9.95 else f"{x:.2f}x"


def report(found: list[Row]) -> str:
    """Every layer, then each family's geometric means and our minimum."""
    columns = lambda texts: " ".join(f"{text:>10}" for text in texts)
    lines = [f"{'layer':36} {columns(['stock', 'ours', *PROGRAMS.values()])}"]
    for r in found:
        times = [f"{r[name]:.2f} ms" for name in ("stock_ms", "ours_ms")]
        lines.append(f"{label(r)[:36]:36} {columns(times + [number(ratio(r, p)) for p in PROGRAMS])}")
    families = {name: [r for r in found if r["family"] == name] for name in sorted({r["family"] for r in found})}
    families["transposed, depthwise, grouped, 3-D"] = [r for r in found if group(r["family"]) in HEAVY]
    families["all"] = found
    lines += ["", f"{'geometric means':40} {columns(PROGRAMS.values())}   minimum of ours"]
    for name, members in families.items():
        if members:
            least = min(members, key=lambda r: ratio(r, "ours"))
            means = columns(number(mean(members, p)) for p in PROGRAMS)
            lines.append(f"{name + f' ({len(members)})':40} {means}   {number(ratio(least, 'ours'))} {least['layer']}")
    return "\n".join(lines)


def label(row: Row) -> str:
    network, _, _ = row["network"].partition(" (")
    alone = {"fb": "", "f": ", forward only", "d": ", dx only", "w": ", dw only"}[row["direction"]]
    return f"{row['layer']}  ({network}{alone})"


def draw(results: Row, out: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    found, machine = rows(results), results["machine_info"]
    groups = [g for g in COLOURS if any(group(r["family"]) == g for r in found)]
    members = {g: [r for r in found if group(r["family"]) == g] for g in groups}
    heights = [-i - 0.7 * groups.index(group(r["family"])) for i, r in enumerate(found)]  # families set apart
    figure, axes = plt.subplots(figsize=(11, 2 - 0.22 * heights[-1]), layout="constrained")
    best: dict[str, Any] = {
        "marker": "|",
        "markersize": 10,
        "markeredgewidth": 2,
        "color": "black",
        "linestyle": "none",
    }
    torch: dict[str, Any] = {
        "marker": "o",
        "markersize": 5.5,
        "color": "white",
        "markeredgecolor": "black",
        "linestyle": "none",
    }
    for y, r in zip(heights, found, strict=True):
        axes.barh(y, ratio(r, "ours") - 1, left=1, height=0.7, color=COLOURS[group(r["family"])], zorder=2)
        axes.plot(ratio(r, "best"), y, **best, zorder=3)
        axes.plot(ratio(r, "torch"), y, **torch, zorder=4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
    axes.grid(axis="x", color="0.88", zorder=0)
    axes.axvline(1, color="black", linewidth=1, zorder=3)
    axes.set_yticks(heights, map(label, found), fontsize=8)
    shown = {p: name for p, name in PROGRAMS.items() if mean(found, p) > 0}  # PyTorch is not installed everywhere
    numbers = axes.twinx()  # the same numbers in print
    columns = lambda texts: " ".join(f"{text:>7}" for text in texts)
    printed = [columns(shown.values()), *(columns(number(ratio(r, p)) for p in shown) for r in found)]
    numbers.set_yticks([1.2, *heights], printed, family="monospace", fontsize=8)
    for side in (axes, numbers):
        side.set_ylim(heights[-1] - 0.8, 1.6)
        side.tick_params(axis="y", length=0)
        side.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("stock equinox's time / the program's time (log scale; right of 1x is faster than stock)")
    where = [machine["cpu"], f"{machine['threads']} threads", f"JAX {machine['jax']}"]
    where += [f"PyTorch {machine['torch']}"] if machine["torch"] else []
    figure.suptitle("A training step of one layer on a CPU (forward and backward), stock equinox = 1x", fontsize=13)
    axes.set_title(f"{', '.join(where)}; float32, channels first, interleaved in one process", fontsize=9)
    steps = lambda of: [r for r in of if r["direction"] == "fb"]
    means = lambda of: ", ".join(f"{name} {number(mean(steps(of), p))}" for p, name in shown.items())
    key: list[Any] = [(Patch(color=COLOURS[g]), f"{g}: {means(members[g])}") for g in groups]
    key += [(Line2D([], [], **best), "best of all formulations")]
    key += [(Line2D([], [], **torch), "PyTorch")] if "torch" in shown else []
    place: dict[str, Any] = {"loc": "lower right", "fontsize": 8, "framealpha": 1, "title_fontsize": 8}
    axes.legend(*zip(*key, strict=True), title="bars: ours; geometric means of training steps", **place).set_zorder(5)
    axes.set_zorder(numbers.get_zorder() + 1)
    axes.patch.set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.chart", description=__doc__)
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args(argv)
    results = json.loads(args.results.read_text())
    draw(results, args.out)
    print(report(rows(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

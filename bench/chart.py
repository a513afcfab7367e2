"""Draws what `make bench` or `make networks` measured, and prints it.

python -m bench.chart out/layers_cpu.json out/cpu.png
python -m bench.chart out/networks_cpu.json out/networks.png
"""

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
NETWORKS = {  # as plots and pages call them
    "unet3d": "3-D U-Net, 32x32x32",
    "efficientnet": "EfficientNet-B0, 64x64",
    "dcgan": "DCGAN, both networks, 64x64",
    "convnext": "ConvNeXt-T, 64x64",
    "mamba": "Mamba-like, 24 blocks, 1024 steps",
    "wavenet": "WaveNet, 30 layers, 4096 samples",
    "unet": "U-Net, 64x64",
    "resnet18": "ResNet-18, 64x64",
}


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


def where(machine: Row) -> str:
    """The machine and the versions that were measured, as captions say them."""
    return ", ".join([machine["cpu"], f"{machine['threads']} threads", f"JAX {machine['jax']}"])


def draw(results: Row, out: pathlib.Path) -> None:
    """A plot of layers: stock's time by that of each program."""
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
    versions = where(machine) + (f", PyTorch {machine['torch']}" if machine["torch"] else "")
    figure.suptitle("A training step of one layer on a CPU (forward and backward), stock equinox = 1x", fontsize=13)
    axes.set_title(f"{versions}; float32, channels first, interleaved in one process", fontsize=9)
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


# ---------------------------------------------------------------- networks


def networks(results: Row) -> list[Row]:
    """The networks whose steps were timed, those first that gain most."""
    return sorted((r for r in results["networks"] if r["status"] == "ok"), key=lambda r: -r["ratio"])


def ms(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds >= 9.95 else f"{milliseconds:.1f} ms"


def table_of_networks(found: list[Row]) -> str:
    """A table in Markdown, as the pages have it."""
    lines = [
        f"| {NETWORKS.get(r['name'], r['name'])} | {ms(r['stock_ms'])} | {ms(r['ours_ms'])} | {r['ratio']:.1f}x |"
        for r in found
    ]
    return "\n".join(["| training step | stock | converted | |", "|---|--:|--:|--:|", *lines])


def draw_networks(results: Row, out: pathlib.Path) -> None:
    """A plot of networks: a training step in stock equinox, and beside it the converted model's, as part of stock's time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found, machine = networks(results), results["machine"]
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.52 * len(found)), layout="constrained")
    stock, ours = COLOURS["dense 1-D and 2-D"], COLOURS["transposed"]
    for y, r in enumerate(found):
        part = r["ours_ms"] / r["stock_ms"]
        axes.barh(y - 0.19, 1, height=0.34, color=stock, label="stock equinox" if y == 0 else None)
        axes.barh(y + 0.19, part, height=0.34, color=ours, label="after pc.convert(model)" if y == 0 else None)
        axes.text(1.01, y - 0.19, ms(r["stock_ms"]), va="center", fontsize=9, color="0.35")
        axes.text(part + 0.01, y + 0.19, f"{ms(r['ours_ms'])}   {r['ratio']:.1f}x as fast", va="center", fontsize=9)
    axes.set_yticks(range(len(found)), [NETWORKS.get(r["name"], r["name"]) for r in found])
    axes.set_xlim(0, 1.13)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.spines["bottom"].set_bounds(0, 1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("time of a training step, stock equinox = 100%")
    figure.suptitle("Training steps of eight networks on a CPU", fontsize=13)
    axes.set_title(f"{where(machine)}, equinox {machine['equinox']}; float32, a quarter of the channels", fontsize=9)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130, metadata={"Software": None})
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.chart", description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=pathlib.Path, help="of layers or of networks")
    parser.add_argument("out", type=pathlib.Path, help="the plot")
    args = parser.parse_args(argv)
    results = json.loads(args.results.read_text())
    if "networks" in results:
        draw_networks(results, args.out)
        print(table_of_networks(networks(results)))
    else:
        draw(results, args.out)
        print(report(rows(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

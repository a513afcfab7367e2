"""The plots of a report. Titles and file names say whether the numbers were measured."""

import math
import pathlib
from collections.abc import Iterable
from typing import Any

from ..chart import COLOURS, group, number
from .rows import GEMMS, Run, Timed
from .text import RIVALS, Label

LAX: dict[str, Any] = {"marker": "|", "markersize": 9, "markeredgewidth": 2, "color": "black", "linestyle": "none"}
TORCH: dict[str, Any] = {
    "marker": "o", "markersize": 5, "color": "white", "markeredgecolor": "black", "linestyle": "none",
}  # fmt: skip
ROOFS = {"bfloat16": ("solid", "bfloat16"), "float32": ("dashed", "TF32")}  # line and name
NAMED = 8  # products in the roofline: those furthest below it
TICKS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 50, 100)  # of ratios


def draw(runs: list[Run], products: list[Timed], said: Label, folder: pathlib.Path) -> list[str]:
    """Write the plots that there are numbers for; the names of the files."""
    import matplotlib

    matplotlib.use("Agg")
    bare = [p for p in products if not p.step]
    found = []
    for name, figure in (("speed", _speed([p for p in bare if p.ours], said)), ("roofline", _roofline(bare, said))):
        if figure is not None:
            found.append(f"{name}-{said.suffix}.png")
            figure.savefig(folder / found[-1], dpi=130, metadata={"Software": None})
    return found


# ---------------------------------------------------------------- speed


def _speed(products: list[Timed], said: Label) -> Any:
    """A bar a product: how many times as fast as stock; marks: the best lax program and PyTorch, on the same scale."""
    if not products:
        return None
    from matplotlib.figure import Figure

    groups = _groups(products)
    ordered = sorted(products, key=lambda p: (groups.index(_group(p)), -(p.ratio("stock") or 0)))
    heights = [-i - 0.7 * groups.index(_group(p)) for i, p in enumerate(ordered)]  # families set apart
    figure = Figure(figsize=(10, 2.2 - 0.2 * heights[-1]), layout="constrained")
    axes = figure.subplots()
    for y, p in zip(heights, ordered, strict=True):
        stock = p.ms("stock") or 0
        axes.barh(y, (p.ratio("stock") or 1) - 1, left=1, height=0.7, color=COLOURS[_group(p)], zorder=2)
        axes.plot(stock / (p.lax or stock), y, **LAX, zorder=3)
        if torch := p.ms("torch"):
            axes.plot(stock / torch, y, **TORCH, zorder=4)
    _ratios(axes)
    axes.set_yticks(heights, [f"{p.name}  {p.ours:.3g} ms" for p in ordered], fontsize=8)
    _numbers(axes, heights, ordered)
    axes.set_xlabel("stock equinox's time / the program's time (log scale; right of 1x is faster than stock)")
    figure.suptitle("Kernels beside stock equinox, the best lax program and PyTorch", fontsize=13)
    axes.set_title(said.measured, fontsize=10)
    key = _key(groups, any(p.torch for p in ordered))
    figure.legend(handles=key, fontsize=8, loc="outside lower center", ncols=min(4, len(key)), frameon=False)
    return figure


def _ratios(axes: Any) -> None:
    """A logarithmic axis, marked at ratios that are said easily."""
    axes.set_xscale("log")
    axes.minorticks_off()
    low, high = axes.get_xlim()
    shown = [x for x in TICKS if low <= x <= high]
    axes.set_xticks(shown, [f"{x:g}x" for x in shown])
    axes.grid(axis="x", color="0.9", zorder=0)
    axes.axvline(1, color="black", linewidth=1, zorder=3)


def _numbers(axes: Any, heights: list[float], products: list[Timed]) -> None:
    """The ratios of our kernels in print, to the right."""
    side = axes.twinx()
    columns = lambda texts: " ".join(f"{text:>8}" for text in texts)
    told = [columns("-" if (r := p.ratio(rival)) is None else number(r) for rival in RIVALS) for p in products]
    side.set_yticks(
        [1.3, *heights],
        [columns(f"x {name}" for name in ("stock", "lax", "torch")), *told],
        family="monospace",
        fontsize=8,
    )
    for each in (axes, side):
        each.set_ylim(heights[-1] - 0.8, 1.8)
        each.tick_params(axis="y", length=0)
        each.spines[["top", "right", "left"]].set_visible(False)


def _key(groups: Iterable[str], torch: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    key: list[Any] = [Patch(color=COLOURS[g], label=f"kernel, {g}") for g in groups]
    key.append(Line2D([], [], **LAX, label="best lax program"))
    if torch:
        key.append(Line2D([], [], **TORCH, label="PyTorch, in a process of its own"))
    return key


def _group(product: Timed) -> str:
    return group(product.family)


def _groups(products: list[Timed]) -> list[str]:
    found = {_group(p) for p in products}
    return [g for g in COLOURS if g in found]


# ---------------------------------------------------------------- roofline


def _roofline(products: list[Timed], said: Label) -> Any:
    """Useful rates over intensity, of kernels and of stock, below the peaks that libraries reached."""
    measured = [p for p in products if p.part]
    placed = [p for p in measured if p.ours] or measured  # where there is no kernel, programs of XLA's
    if not placed:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda x, _: f"{x:g}")
        axis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")
    axes.tick_params(which="both", labelsize=8)
    peaks = placed[0].peaks
    _roofs(axes, placed, peaks)
    for p in placed:
        _point(axes, p)
    _named(axes, sorted(placed, key=lambda p: p.part or 0))
    axes.grid(which="both", color="0.93", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"useful operations / byte of least traffic (slope: a copy's {peaks['copy'] / 1e9:.0f} GB/s)")
    axes.set_ylabel("useful TFLOP/s")
    figure.suptitle("Speed below the peaks that libraries reached", fontsize=13)
    axes.set_title(said.measured, fontsize=10)
    axes.legend(handles=_points(placed), fontsize=8, loc="lower right")
    return figure


def _roofs(axes: Any, placed: list[Timed], peaks: dict[str, float]) -> None:
    """Bandwidth, then the matrix product's rate of each dtype that occurs; float16 under bfloat16's, whose rate it shares."""
    low, high = min(p.intensity for p in placed) / 1.5, max(p.intensity for p in placed) * 1.5
    for dtype, (style, name) in ROOFS.items():
        if peak := peaks.get(GEMMS[dtype]):
            edge = peak / peaks["copy"]
            xs = [min(low, edge), edge, max(high, edge)]
            axes.plot(
                xs, [min(x * peaks["copy"], peak) / 1e12 for x in xs], color="black", linewidth=1.2, linestyle=style
            )
            text = f"{name}: {peak / 1e12:.3g} TFLOP/s"
            axes.annotate(text, (xs[-1], peak / 1e12), (0, 4), textcoords="offset points", ha="right", fontsize=8)


def _point(axes: Any, p: Timed) -> None:
    """Filled: a kernel. Hollow: stock, joined to it. A square where operands were float32."""
    colour, marker = COLOURS[_group(p)], "s" if p.case.dtype == "float32" else "o"
    rates = [p.shown["tflops"]]
    if p.ours and "stock" in p.by:
        rates.append(p.by["stock"]["tflops"])
        axes.plot([p.intensity] * 2, rates, color=colour, linewidth=0.7, zorder=2)
    for rate, filled in zip(rates, (bool(p.ours), False), strict=False):
        axes.plot(
            p.intensity, rate, marker=marker, markersize=5.5, markerfacecolor=colour if filled else "white",
            markeredgecolor=colour, linestyle="none", zorder=3,
        )  # fmt: skip


def _named(axes: Any, ordered: list[Timed]) -> None:
    """The names of the first few products that have room for one."""
    taken: list[tuple[float, float]] = []
    for p in ordered:
        x, y = math.log10(p.intensity), math.log10(p.shown["tflops"])
        if len(taken) < NAMED and all(abs(x - a) > 0.45 or abs(y - b) > 0.05 for a, b in taken):
            taken.append((x, y))
            axes.annotate(p.name, (10**x, 10**y), (5, -8), textcoords="offset points", fontsize=7)


def _points(placed: list[Timed]) -> list[Any]:
    from matplotlib.lines import Line2D

    mark = lambda label, **how: Line2D([], [], linestyle="none", markersize=6, label=label, **how)
    filled = "kernel, " if any(p.ours for p in placed) else ""
    key = [mark(f"{filled}{g}", marker="o", color=COLOURS[g]) for g in _groups(placed)]
    hollow = "stock equinox" if filled else "best lax program, or stock: no kernel was timed"
    key.append(mark(hollow, marker="o", markerfacecolor="white", markeredgecolor="0.4"))
    if any(p.case.dtype == "float32" for p in placed):
        key.append(mark("float32, as TF32", marker="s", color="0.4"))
    return key

"""The tables of a report, in Markdown. Every caption says whether its numbers were measured, compiled or modelled."""

import collections
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pallas_conv.kernels import chips
from pallas_conv.kernels.gpu import H100_SMS

from ..chart import COLOURS, group, number
from ..micro import constants
from ..runner.log import digests
from .rows import BAD, Row, Run, Timed, cases

DRY_RUN = "DRY RUN, NOT A GPU"
STATUSES = ("ok", *BAD, "skipped", "unsupported")
RIVALS = {"stock": "stock", "lax": "best lax", "torch": "PyTorch"}
MOST_BAD = 100  # failures told: the files have all
NETWORK_PROGRAMS = {
    "stock": "stock equinox",
    "lax": '`"auto"` without kernels',
    "auto": '`"auto"`',
    "mosaic": '`("mosaic", "auto")`',
}


class Label(NamedTuple):
    """Says what numbers are and where they are from.

    dry     of a run that was on no GPU
    device  its full name
    """

    dry: bool
    device: str

    @property
    def measured(self) -> str:
        return f"{DRY_RUN}: of a CPU, on tiny sizes" if self.dry else f"Measured on an {self.device}"

    @property
    def suffix(self) -> str:
        """The end of the names of files."""
        return "dry-run" if self.dry else "measured"

    def caption(self, text: str) -> str:
        return f"*{self.measured}. {text}*"

    def beside(self, kind: str, text: str) -> str:
        """A caption for numbers that are, beside measured ones, of another kind: compiled or modelled."""
        return f"*{self.measured}, but for the columns that say {kind}. {text}*"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table in Markdown. The first `words` columns are words, the others numbers."""
    align = [":--"] * words + ["--:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, align, *rows))


def label(runs: list[Run]) -> Label:
    return Label(runs[0].dry, runs[0].device["device_kind"])


def readme(runs: list[Run], products: list[Timed], plots: Sequence[str]) -> str:
    """The whole report."""
    said = label(runs)
    parts = [
        f"# {DRY_RUN}" if said.dry else f"# {said.device}",
        f"Written by `python -m bench.report` from the rows beside it. {_meaning(said)}",
        *(f"![{said.measured}]({plot})" for plot in plots),
        *_section("Runs", said.caption("What the machine said of itself."), _runs(runs)),
        *_section("What failed", said.caption("Everything wrong, failed, hung or crashed."), _failures(runs)),
        *_section("Checks", said.caption(CHECKED), _checks(runs)),
        *_section(
            "Peaks",
            said.caption("What libraries reach; parts of the floor are of the best of these."),
            _peaks(runs),
        ),
        *_section("Spread", said.caption(SPREAD), _spread(runs)),
        *_section("In short", said.caption(MEANS), means(products)),
        *_families(said, products),
        *_section("Products of networks", said.caption(OF_NETWORKS), of_networks(runs)),
        *_section("Tuning", said.caption(TUNING), _tuning(runs)),
        *_section("Training steps of networks", said.beside("compiled", NETWORKS), _networks(runs)),
        *_section("Constants of the cost model", said.beside("modelled", CONSTANTS), _constants(runs)),
    ]
    return "\n\n".join(parts) + "\n"


def _meaning(said: Label) -> str:
    if said.dry:
        return f"**{DRY_RUN}: the numbers only show that the scripts run; of the kernels' speed they say nothing.**"
    return "Measured: what a program took here. Compiled: what its compiler says. Modelled: what the cost model takes."


def _section(title: str, caption: str, text: str) -> list[str]:
    """A section of lines, or no lines where there is nothing to show."""
    return [f"## {title}", caption, text] if text else []


# ---------------------------------------------------------------- runs


def _runs(runs: list[Run]) -> str:
    head = ("rows", "date", "commit", "kernels' source", "JAX", "CUDA", "driver")
    return table(head, map(_run, runs), len(head))


def _run(run: Run) -> list[str]:
    d = run.device
    commit = f"{(d.get('commit') or '?')[:10]}{', changed' if d.get('changed') else ''}"
    return [run.name, d["date"], commit, digests(d["code"]), d["jax"], cuda(d), d.get("driver") or "-"]


def cuda(device: Row) -> str:
    """The version of CUDA's runtime library that ran."""
    found = [v for name, v in device["versions"].items() if name.startswith("nvidia-cuda-runtime")]
    return found[0] if found else "-"


def _failures(runs: list[Run]) -> str:
    found = [(run, row) for run in runs for row in run.rows if row["status"] in BAD]
    if not found:
        return "Nothing."
    head = ("rows", "kind", "name", "program", "status", "why")
    lines = [[run.name, r["kind"], r["name"], r.get("impl", "-"), r["status"], _why(r)] for run, r in found[:MOST_BAD]]
    more = f"\n\nAnd {len(found) - MOST_BAD} more." if len(found) > MOST_BAD else ""
    return table(head, lines, len(head)) + more


def _why(row: Row) -> str:
    told = " ".join(str(row[key]) for key in ("exception", "detail", "code_path") if row.get(key))
    return " ".join(told.replace("|", "/").split())[:160] or _beyond(row)


def _beyond(row: Row) -> str:
    return f"error {row['error']:.2e}, bound {row['bound']:.2e}" if _is_check(row) else "-"


# ---------------------------------------------------------------- checks

CHECKED = "A check holds results against float64, as a whole or at some pixels; right is an error within its bound."


def _checks(runs: list[Run]) -> str:
    kinds = dict.fromkeys(
        row["kind"] for run in runs for row in run.rows if row["kind"] not in ("run", "compile", "device")
    )
    head = ("kind of row", *STATUSES, "checks", "worst error / bound", "where")
    return table(head, [_counts(kind, [r for run in runs for r in run.of(kind)]) for kind in kinds])


def _counts(kind: str, rows: list[Row]) -> list[str]:
    counts = collections.Counter(row["status"].partition(":")[0] for row in rows)
    checks = [row for row in rows if _is_check(row)]
    worst = max(checks, key=_by_bound, default=None)
    told = [f"{_by_bound(worst):.3g}", worst["name"]] if worst else ["-", "-"]
    return [kind, *(str(counts[status]) for status in STATUSES), str(len(checks)), *told]


def _is_check(row: Row) -> bool:
    """Whether a row holds a check. One whose error is NaN, which is written as text, does not."""
    return all(isinstance(row.get(key), int | float) for key in ("error", "bound"))


def _by_bound(row: Row) -> float:
    return row["error"] / row["bound"] if row["bound"] else float("inf") if row["error"] else 0.0


def _peaks(runs: list[Run]) -> str:
    rate = lambda name, rate: (
        [f"{rate / 1e9:.0f}", "GB/s"] if name.endswith("copy") else [f"{rate / 1e12:.1f}", "TFLOP/s"]
    )
    return table(
        ("rows", "of", "reached", ""), [(run.name, n, *rate(n, r)) for run in runs for n, r in run.peaks.items()], 2
    )


SPREAD = "Stock's programs, compiled and timed again by another process: what a time is good for."


def _spread(runs: list[Run]) -> str:
    rows = [row for run in runs for row in run.of("spread") if "ratio" in row]
    lines = [[row["name"], f"{row['first_ms']:.4f}", f"{row['ms']:.4f}", f"{row['ratio'] - 1:.1%}"] for row in rows]
    return table(("product", "ms", "again", "apart"), lines) if lines else ""


# ---------------------------------------------------------------- products

MEANS = (
    "Geometric means over the products that a kernel serves, of the time of stock equinox, the best program without kernels, "
    "and PyTorch by the kernel's: above 1x the kernel is faster. Layers are channels first, and the "
    "changes of layout around a kernel, or around cuDNN's, are part of its time. PyTorch ran in a process of its own."
)
STEPS = "whole steps of layers"
PRODUCTS = (
    "f: forward, d: input gradient, w: weight gradient, fb: the layer's whole step. ms of kernels on the device; best lax "
    "where it is not stock's program. Rates are of useful multiply-adds and least traffic, of the kernel, else of the best; "
    "the part of the floor is of what the peaks allow. ~: by the clock, where CUPTI saw nothing."
)


def means(products: list[Timed]) -> str:
    """A line a family, and one for all."""
    served = [p for p in products if p.ours and not p.step]
    if not served:
        return ""
    steps = [p for p in products if p.ours and p.step]
    families = {name: [p for p in served if p.family == name] for name in _ordered(p.family for p in served)}
    head = ("family", "products", *(f"x {name}" for name in RIVALS.values()), "least x best lax", "part of the floor")
    return table(
        head, [_mean(name, found) for name, found in {**families, "all": served, STEPS: steps}.items() if found]
    )


def _ordered(families: Iterable[str]) -> list[str]:
    """The families in order, those of a colour together."""
    return sorted(set(families), key=lambda name: (list(COLOURS).index(group(name)), name))


def _mean(name: str, products: list[Timed]) -> list[str]:
    least = min(products, key=lambda p: p.ratio("lax") or 0)
    parts = [p.part for p in products if p.part]
    part = f"{statistics.median(parts):.0%}" if parts else "-"
    return [
        name,
        str(len(products)),
        *(mean(products, r) for r in RIVALS),
        f"{_times(least.ratio('lax'))} {least.name}",
        part,
    ]


def mean(products: list[Timed], rival: str) -> str:
    """The geometric mean, with how many products it is of where that is not all."""
    ratios = [ratio for p in products if (ratio := p.ratio(rival))]
    of = f" ({len(ratios)})" if 0 < len(ratios) < len(products) else ""
    return (number(statistics.geometric_mean(ratios)) if ratios else "-") + of


def _families(said: Label, products: list[Timed]) -> list[str]:
    return [
        part
        for name in _ordered(p.family for p in products)
        for part in _section(
            name[0].upper() + name[1:], said.caption(PRODUCTS), _products([p for p in products if p.family == name])
        )
    ]


def _products(products: list[Timed]) -> str:
    times = ("stock ms", "best lax ms", "kernel ms", "PyTorch ms")
    head = ("product", *times, *(f"x {name}" for name in RIVALS.values()), "TFLOP/s", "GB/s", "part of the floor")
    return table(head, map(_product, products))


def _product(p: Timed) -> list[str]:
    times = [_ms(p.by.get("stock")), _ms(p.by.get("best")), p.bad or _ms(p.by.get("ours")), _ms(p.torch)]
    rates = f"{p.shown['tflops']:.1f}", f"{p.shown['gbps']:.0f}", "-" if p.part is None else f"{p.part:.0%}"
    return [p.name, *times, *(_times(p.ratio(rival)) for rival in RIVALS), *rates]


def _ms(row: Row | None) -> str:
    if row is None:
        return "-"
    by_clock = "~" if row["source"] != "cupti" else ""
    return by_clock + (f"{row['ms']:.4f}" if row["ms"] < 10 else f"{row['ms']:.2f}")


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else number(ratio)


OF_NETWORKS = (
    "Forward products and input gradients of networks at published sizes, those that were timed, each under the first network "
    "that has it: the time of stock equinox and of the best program without kernels by the kernel's, layout changes included."
)


def of_networks(runs: list[Run]) -> str:
    """A line a network: geometric means, and how many kernels are faster than the best lax program."""
    rows = {row["name"]: row for run in runs for row in run.of("tuned") if row["status"] == "ok"}
    by_network: dict[str, list[Row]] = {}
    for name, row in sorted(rows.items()):
        if (network := name.partition("/")[0]) not in cases():
            by_network.setdefault(network, []).append(row)
    lines = [_of_network(name, found) for name, found in by_network.items()]
    return table(("network", "products", "x stock", "x best lax", "faster than it", "by 5%"), lines) if lines else ""


def _of_network(name: str, rows: list[Row]) -> list[str]:
    ratios = {rival: [row[rival] / row["kernel_us"] for row in rows] for rival in ("stock_us", "lax_us")}
    means = (number(statistics.geometric_mean(found)) for found in ratios.values())
    faster = (str(sum(ratio > least for ratio in ratios["lax_us"])) for least in (1.0, 1.05))
    return [name, str(len(rows)), *means, *faster]


TUNING = (
    "Configurations of a kernel in turns, microseconds: today's choice and what is kept. Gain: today's time by the fastest's; "
    "today's choice is kept below 3%."
)


def _tuning(runs: list[Run]) -> str:
    """The last row of each product."""
    rows = {row["name"]: row for run in runs for row in run.of("tuned") if "gain" in row}
    head = ("product", "configurations", "today's us", "kept us", "gain", "kept")
    return table(head, [_tuned(rows[name]) for name in sorted(rows)]) if rows else ""


def _tuned(row: Row) -> list[str]:
    kept = "today's" if row["config"] == row["today"] else row["facts"]["code_path"]
    us = f"{row['today_us']:.1f}", f"{row['kernel_us']:.1f}"
    return [row["name"], str(len(row["timed"])), *us, f"{row['gain']:.3f}x", kept]


# ---------------------------------------------------------------- networks

NETWORKS = (
    "Steps by the clock, bfloat16, float32 weights, programs in turns. Memory is temporary memory as the compiler counts it, "
    "without the library's workspace. Differences from stock are of the first step: its loss and its change of the weights."
)


def networks(runs: list[Run]) -> list[Row]:
    """The last row of each program, the programs of a network from one run."""
    found: dict[str, list[Row]] = {}
    for run in runs:
        by_name: dict[str, list[Row]] = {}
        for row in run.of("network"):
            if "impl" in row:
                by_name.setdefault(row["name"], []).append(row)
        found |= {name: rows for name, rows in by_name.items() if any("ms" in row for row in rows)}
    return [row for rows in found.values() for row in rows]


def _networks(runs: list[Run]) -> str:
    head = (
        "network", "program", "batch", "ms", "x stock", "compiled: MB", "kernels of products", "loss",
        "loss difference / bound", "weights difference / bound",
    )  # fmt: skip
    lines = [_network(row) for row in networks(runs)]
    return table(head, lines, 2) if lines else ""


def _network(row: Row) -> list[str]:
    optional: Callable[[str, str], str] = lambda key, form: format(row[key], form) if key in row else "-"
    return [
        row["name"],
        NETWORK_PROGRAMS[row["impl"]],
        f"{row['images']} of {row['side']}",
        optional("ms", ".2f") if row["status"] == "ok" else row["status"],
        _times(row.get("ratio")),
        f"{row['temp_bytes'] / 1e6:.0f}" if "temp_bytes" in row else "-",
        f"{row['kernels']} of {row['products']}" if row.get("products") else "-",
        optional("loss", ".6f"),
        f"{row['difference']:.1e} / {row['bound']:.1e}" if "difference" in row else "-",
        f"{row['update_difference']:.1e} / {row['update_bound']:.1e}" if "update_difference" in row else "-",
    ]


# ---------------------------------------------------------------- constants

CONSTANTS = (
    "Modelled is what the cost model takes where nothing was measured, published or judged. "
    "What each constant means, and where it is from, is said in `kernels/chips.py` and `kernels/chips.json`."
)


def _constants(runs: list[Run]) -> str:
    asked = [run for run in runs if any("value" in row for row in run.of("micro"))]
    if not asked:
        return ""
    found = constants.of(asked[-1].rows, asked[-1].device.get("sms") or H100_SMS, chips.load(chips.CHIPS))
    told, _ = constants.derived(found)
    lines = [[name, f"{value:.4g}", f"{getattr(found.nominal, name):.4g}"] for name, value in told.items()]
    return table(("constant", "measured", "modelled"), lines) if lines else ""


# ---------------------------------------------------------------- for a page of the documentation


def short(runs: list[Run], products: list[Timed], where: str) -> str:
    """The table for a page that says more; `where` is the path of the folder of the report from there."""
    said, last = label(runs), runs[-1].device
    name = where.removeprefix("../" * where.count("../"))
    with_kernels = f"driver {last.get('driver')}, JAX {last['jax']}, CUDA {cuda(last)}, kernels {digests(last['code'])}"
    parts = [
        said.caption(f"{last['date']}; {with_kernels}. {MEANS} Every row: [{name}]({where}/README.md)."),
        means(products),
        f"![{said.measured}]({where}/speed-{said.suffix}.png)",
    ]
    if products_of := of_networks(runs):
        parts += [said.caption(OF_NETWORKS), products_of]
    if steps := _steps(runs):
        parts += [said.caption("Milliseconds of a training step, bfloat16, by the clock."), steps]
    return "\n\n".join(filter(None, parts))


def _steps(runs: list[Run]) -> str:
    rows = networks(runs)
    by = {(row["name"], row["impl"]): row for row in rows}
    names = dict.fromkeys(row["name"] for row in rows)
    cell = lambda name, impl: _network(by[name, impl])[3] if (name, impl) in by else "-"
    programs = {
        impl: title for impl, title in NETWORK_PROGRAMS.items() if any(cell(name, impl) != "-" for name in names)
    }
    lines = [[name, *(cell(name, impl) for impl in programs)] for name in names]
    return table(("network", *programs.values()), lines) if lines else ""

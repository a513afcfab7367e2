"""Gathers rows: which runs there were, what each product took in the last of them, what failed."""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from workloads.cases import Case, suite

from ..chart import family

type Row = dict[str, Any]

BAD = ("wrong", "error", "hung", "crashed")
GEMMS = {"bfloat16": "gemm_bf16", "float16": "gemm_f16", "float32": "gemm_tf32"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A file of rows."""

    name: str
    rows: tuple[Row, ...]

    @functools.cached_property
    def device(self) -> Row:
        return next(row for row in self.rows if row["kind"] == "device")

    @property
    def dry(self) -> bool:
        return self.device["platform"] != "gpu"

    @functools.cached_property
    def peaks(self) -> dict[str, float]:
        """Bytes or operations a second."""
        found = {r["name"]: r for r in self.rows if r["kind"] == "peak" and r["status"] == "ok"}
        return {
            n: r["gbps"] * 1e9 if "gbps" in r else r["tflops"] * 1e12
            for n, r in found.items()
            if {"gbps", "tflops"} & r.keys()
        }

    def of(self, *kinds: str) -> Iterator[Row]:
        return (row for row in self.rows if row["kind"] in kinds)

    def times(self) -> Iterator[Row]:
        """Rows of products of the suite, by program: those of kind "time", and what rows of kind "tuned" say of three."""
        for row in self.of("time", "tuned"):
            if row["name"].partition("/")[0] in cases():
                yield from _tuned(row) if row["kind"] == "tuned" and row["status"] == "ok" else (row,)


def _tuned(row: Row) -> Iterator[Row]:
    """The configuration that is kept, stock, and the best lax program where that is another."""
    name, _, direction = row["name"].partition("/")
    case = cases()[name]
    took = {"stock": row["stock_us"], "ours": row["kernel_us"]}
    if row["lax_us"] != row["stock_us"]:
        took["best"] = row["lax_us"]
    for impl, us in took.items():
        rates = {"tflops": case.flops(direction) / us / 1e6, "gbps": case.nbytes(direction) / us / 1e3}
        yield {**{key: row[key] for key in ("name", "status", "source")}, "impl": impl, "ms": us / 1e3, **rates}


@dataclasses.dataclass(frozen=True)
class Timed:
    """The measurements of a product, "<case>/<f|d|w|b|fb>".

    by     rows with times: "stock", "best" where the best lax program is another, "ours"; from one session of one run
    peaks  of the device, see `peaks`
    torch  the last row of PyTorch's, from a run by itself
    bad    how our kernel failed last, if that was not before these rows
    """

    name: str
    by: dict[str, Row]
    peaks: dict[str, float]
    torch: Row | None = None
    bad: str | None = None

    @property
    def case(self) -> Case:
        return cases()[self.name.partition("/")[0]]

    @property
    def step(self) -> bool:
        """Say whether it is a layer's whole training step, which is several products."""
        return self.name.endswith("/fb")

    @property
    def family(self) -> str:
        return family(self.case)

    @property
    def ours(self) -> float | None:
        """Milliseconds of our kernel, or of the layer with kernels; None where none was timed, or it failed since."""
        return None if self.bad else self.ms("ours")

    @property
    def lax(self) -> float | None:
        """Milliseconds of the best program without kernels, which may be stock's."""
        return self.ms("best") or self.ms("stock")

    def ms(self, impl: str) -> float | None:
        row = self.torch if impl == "torch" else self.by.get(impl)
        return row["ms"] if row else None

    def ratio(self, impl: str) -> float | None:
        """The time of "stock", "lax" or "torch" by ours."""
        other = self.lax if impl == "lax" else self.ms(impl)
        return other / self.ours if other and self.ours else None

    @property
    def shown(self) -> Row:
        """The row of the program that matters most: ours, else the best, else PyTorch's, if that is the only one."""
        rows = self.by["ours"] if self.ours else None, self.by.get("best"), self.by.get("stock"), self.torch
        return next(row for row in rows if row)

    @property
    def intensity(self) -> float:
        """Useful operations a byte of the least traffic."""
        return 1e3 * self.shown["tflops"] / self.shown["gbps"]

    @property
    def part(self) -> float | None:
        """The part of what the peaks allow at best; None without them."""
        gemm, copy = self.peaks.get(GEMMS[self.case.dtype]), self.peaks.get("copy")
        if not gemm or not copy:
            return None
        return max(1e12 * self.shown["tflops"] / gemm, 1e9 * self.shown["gbps"] / copy)


@functools.cache
def cases() -> dict[str, Case]:
    return {case.name: case for case in suite()}


# ---------------------------------------------------------------- reading


def read(paths: Iterable[pathlib.Path]) -> list[Run]:
    """The runs, the earliest first. Raises ValueError for rows that are not of one device."""
    found = [Run(path.name, tuple(map(json.loads, path.read_text().splitlines()))) for path in paths]
    for run in found:
        if not any(row["kind"] == "device" for row in run.rows):
            raise ValueError(f"{run.name}: no row says on which device the run was")
    if len({run.dry for run in found}) > 1:
        dry = next(run.name for run in found if run.dry)
        raise ValueError(f"{dry} is of a dry run, others are not: report them apart")
    if len(kinds := sorted({run.device["device_kind"] for run in found})) > 1:
        raise ValueError(f"rows of several devices, {', '.join(kinds)}: report them apart")
    return sorted(found, key=lambda run: (_began(run.name), run.name))


def _began(name: str) -> str:
    """The time when a run began, as the runner writes it into the file's name."""
    found = re.search(r"\d{8}-\d{6}", name)
    return found[0] if found else ""


def peaks(runs: list[Run]) -> dict[str, float]:
    """The best that libraries reached in any run, bytes or operations a second."""
    found: dict[str, float] = {}
    for run in runs:
        found |= {name: max(rate, found.get(name, 0.0)) for name, rate in run.peaks.items()}
    return found


def timed(runs: list[Run]) -> list[Timed]:
    """Every product that has a time, by name."""
    best = peaks(runs)
    found: dict[str, Timed] = {}
    torch: dict[str, Row] = {}
    bad: dict[str, str] = {}
    for run in runs:
        rows = list(run.times())
        by_torch = {row["name"]: row for row in rows if row.get("impl") == "torch"}
        torch |= {name: row for name, row in by_torch.items() if "ms" in row}
        beside = [row for row in rows if row.get("impl") != "torch"]
        for name, by in _times(beside).items():
            found[name] = Timed(name, by, best)
            if "ours" in by:
                bad.pop(name, None)
        bad |= {row["name"]: row["status"] for row in beside if row["status"] in BAD}
        found = {name: Timed(name, {}, best) for name in torch} | found  # where PyTorch's is the only one
    return [
        dataclasses.replace(product, torch=torch.get(name), bad=bad.get(name))
        for name, product in sorted(found.items())
    ]


def _times(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Rows that have times, by product and program."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if "ms" in row:
            found.setdefault(row["name"], {})[row["impl"]] = row
    return found

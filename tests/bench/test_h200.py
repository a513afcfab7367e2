"""What the README says of the H200 is what the committed rows, and the record made from them, say."""

import collections
import pathlib

import pytest

from bench.report import __main__ as report
from bench.report import rows, text
from pallas_conv.plan import plan
from pallas_conv.target import resolve
from pallas_conv.wanted import wanted

ROOT = pathlib.Path(report.__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SAID = " ".join(README.split())
RUNS = rows.read(sorted((ROOT / "bench" / "results" / "h200").glob("*.jsonl")))
ROWS = [row for run in RUNS for row in run.rows]


def test_the_table_is_the_one_that_the_report_writes():
    _, _, rest = README.partition("<!-- gpu-table:begin -->")
    table, _, _ = rest.partition("<!-- gpu-table:end -->")
    assert table.strip() == text.short(RUNS, rows.timed(RUNS), "bench/results/h200").strip()


def test_all_checks_were_right():
    checks = collections.Counter(row["status"] for row in ROWS if text._is_check(row))
    assert list(checks) == ["ok"]
    assert f"right in all {checks['ok']} checks against float64" in SAID
    assert not [row for row in ROWS if row["status"] in ("wrong", "hung", "crashed")]


@pytest.mark.parametrize(("name", "said"), [("sd15_b0/f", 760), ("unet_mid_f32/f", 380)])
def test_a_kernel_alone(name, said):
    """In TFLOP/s, to the next ten."""
    row = next(r for r in ROWS if (r["kind"], r["name"], r.get("impl")) == ("time", name, "ours") and "longest" in r)
    alone_ms = sum(ms for kernel, ms in row["longest"] if kernel.startswith("pallas_conv"))
    assert round(2 * row["facts"]["size"]["macs"] / alone_ms / 1e10) * 10 == said
    assert f"{said} TFLOP/s" in SAID or f"and {said} in TF32" in SAID


def test_peaks_of_the_library():
    found = rows.peaks(RUNS)
    assert f"reach {found['gemm_bf16'] / 1e12:.0f} and {found['gemm_tf32'] / 1e12:.0f} (" in SAID


def test_kernels_of_a_step():
    found = {r["impl"]: r for r in ROWS if r["kind"] == "network" and "kernels" in r}
    auto, every = found["auto"], found["mosaic"]
    assert f"took kernels for {auto['kernels']} of {auto['products']} products" in SAID
    assert f"for all {every['kernels']} that a kernel serves" in SAID


@pytest.mark.shipped
@pytest.mark.extended
def test_how_many_kernels_auto_takes():
    known, taken = wanted(), []
    for name in ("h200", "h100"):
        for group in (known.suite, known.networks):
            plans = [plan(it.product, resolve(name), ("auto",)) for it in group]
            taken.append(sum(p.implementation == "mosaic" for p in plans))
    suite, networks = len(known.suite), len(known.networks)
    assert (
        f"`auto` takes kernels for {taken[0]} of the suite's {suite} products that a kernel serves and for {taken[1]} of "
        f"{networks} in eight networks, on an H100 for {taken[2]} and {taken[3]}."
    ) in SAID

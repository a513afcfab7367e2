"""The pages' numbers of an H200 and an H100 are those of the committed rows, and of the records made from them."""

import collections
import pathlib
import re

import pytest

from bench.report import __main__ as report
from bench.report import rows, text
from bench.tune.measure import GAIN
from pallas_conv.dispatch.plan import plan
from pallas_conv.kernels import families, serve
from pallas_conv.kernels.dense.plan import Config
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.spec import Product
from pallas_conv.target import resolve
from pallas_conv.wanted import wanted

ROOT = pathlib.Path(report.__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "guide" / "gpu.md").read_text()
SAID = " ".join(PAGE.split())
README = " ".join((ROOT / "README.md").read_text().split())
RUNS, H100_RUNS = (rows.read(sorted((ROOT / "bench" / "results" / name).glob("*.jsonl"))) for name in ("h200", "h100"))
ROWS, H100_ROWS = ([row for run in runs for row in run.rows] for runs in (RUNS, H100_RUNS))


def test_the_table_is_the_one_that_the_report_writes():
    _, _, rest = PAGE.partition("<!-- gpu-table:begin -->")
    table, _, _ = rest.partition("<!-- gpu-table:end -->")
    assert table.strip() == text.short(RUNS, rows.timed(RUNS), "../../bench/results/h200").strip()


def test_all_checks_were_right():
    counts = [collections.Counter(row["status"] for row in found if text._is_check(row)) for found in (ROWS, H100_ROWS)]
    assert [list(count) for count in counts] == [["ok"], ["ok"]]
    assert f"right in all {counts[0]['ok']} and all {counts[1]['ok']} checks against float64" in SAID
    assert f"right in all {counts[0]['ok']} checks on an H200 and all {counts[1]['ok']} on an H100" in README
    bad = [row for row in [*ROWS, *H100_ROWS] if row["status"] in ("wrong", "hung", "crashed")]
    assert [row["name"] for row in bad] == ["unet3d"]
    assert "backend_compile_and_load" in bad[0]["tail"]  # it was compiling when the run was over, no kernel ran


def test_speed_over_the_suite():
    all_h200, all_h100 = (
        next(line for line in text.short(runs, rows.timed(runs), "").splitlines() if line.startswith("| all "))
        for runs in (RUNS, H100_RUNS)
    )
    cells = [cell.strip() for cell in all_h100.split("|")]
    assert cells[2] == "73"
    assert f"over the 73 products {cells[3]} stock equinox and {cells[4]} the best program without kernels" in SAID
    for device, line in {"H200": all_h200, "H100": all_h100}.items():
        _, _, products, stock, best, *_ = (cell.strip() for cell in line.split("|"))
        assert f"| NVIDIA {device} | {products} | {stock} | {best} |" in README
    least = min(float(line.split("|")[6].split()[0].rstrip("x")) for line in (all_h200, all_h100))
    assert f"slower with the kernel, down to {least:.2f}x" in README
    ratio, count = cells[5].split()
    assert f"on {count.strip('()')} of them" in SAID
    assert f"has {ratio} its speed" in SAID
    assert f"{all_h200.split('|')[4].strip()} and {cells[4]} the speed of the best program without kernels" in SAID


def test_a_unets_step_on_the_h100():
    found = {r["impl"]: r for r in H100_ROWS if (r["kind"], r["name"]) == ("network", "unet")}
    stock, auto = found["stock"], found["auto"]
    assert f"({auto['images']} images of {auto['side']}x{auto['side']}) took {auto['ms']:.1f} ms" in SAID
    assert f"with kernels for {auto['kernels']} of its {auto['products']} products" in SAID
    assert f"and {stock['ms']:.1f} ms in stock equinox: {stock['ms'] / auto['ms']:.2f}x" in SAID
    assert f"of which lax programs alone have {found['lax']['ratio']:.2f}x" in SAID


@pytest.mark.parametrize(("name", "digits"), [("unet3d", 0), ("resnet50", 1)])
def test_other_networks_steps_on_the_h100(name, digits):
    found = {r["impl"]: r for r in H100_ROWS if (r["kind"], r["name"]) == ("network", name) and "ms" in r}
    stock, auto = found["stock"], found["auto"]
    assert f"took {auto['ms']:.1f} ms" in SAID
    assert f"{stock['ms']:.{digits}f}" in SAID
    ratio = stock["ms"] / auto["ms"]
    if name == "unet3d":
        assert f": {ratio:.1f}x, {found['lax']['ratio']:.1f}x by lax programs alone" in SAID
    else:
        assert f": {ratio:.2f}x." in SAID


@pytest.mark.parametrize("product", ["unet_mid/f", "resnet50_c4/f", "resnet50_c2/f", "resnet50_c2/d"])
def test_profiles_as_their_table_has_them(product):
    folder = ROOT / "bench" / "results" / "h100"
    page = " ".join((folder / f"ncu-{product.replace('/', '_')}.txt").read_text().split())
    value = lambda name, unit: float(re.search(rf"{name} {unit} ([\d.]+)", page)[1])
    busy = float(re.search(r"highest-utilized pipeline \(([\d.]+)%\)", page)[1])
    parts = [value(f"{unit} Throughput", "%") for unit in ("L1/TEX Cache", "L2 Cache", "DRAM")]
    row = next(line for line in (folder / "profiles.md").read_text().splitlines() if line.startswith(f"| {product}"))
    _, us, *cells = row.strip("|").split("|")
    assert float(us) == pytest.approx(value("Duration", "us"), rel=5e-3)
    percents = [busy, *parts, value("L2 Hit Rate", "%")]
    assert [cell.strip() for cell in cells[:5]] == [f"{percent:.0f}%" for percent in percents]
    assert [int(cell) for cell in cells[5:]] == [
        value("Registers Per Thread", "register/thread"), round(value("Achieved Active Warps Per SM", "warp"))
    ]  # fmt: skip


def test_where_stock_is_worst():
    worst = max(
        (r for r in H100_ROWS if r["kind"] == "tuned" and "stock_us" in r), key=lambda r: r["stock_us"] / r["kernel_us"]
    )
    assert worst["product"]["spec"]["kernel_dilation"] == [512]
    assert f"takes {worst['stock_us'] / 1e3:.0f} ms, the kernel {worst['kernel_us'] / 1e3:.3f}" in SAID


@pytest.mark.parametrize(("name", "said"), [("sd15_b0/f", 760), ("unet_mid_f32/f", 380)])
def test_a_kernel_alone(name, said):
    """The TFLOP/s of a kernel alone that the page has are the measured ones, to the next ten."""
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


@pytest.mark.extended
def test_the_times_of_the_h100s_record_are_of_todays_tiles_or_of_tiles_as_fast():
    """The timed tiles are today's, or as fast within the 3% by which tuning takes one for another."""
    (kind,) = {r["device_kind"] for r in H100_ROWS if r["kind"] == "device"}
    tuned = [row for row in H100_ROWS if row["kind"] == "tuned" and row["status"] == "ok"]
    for row in tuned:
        us = {Config.from_json(it["config"]): it["us"] for it in row["timed"]}
        today = serve.choose(Product.from_json(row["product"]), Gpu(row["num_sms"], kind))
        assert us[today] <= GAIN * row["kernel_us"]


@pytest.mark.shipped
@pytest.mark.extended
def test_how_many_kernels_auto_takes():
    """Every kernel that it takes is a dense one; weight gradients and depthwise layers are not among its products."""
    dense = families.named("dense")
    groups = wanted().suite, wanted().networks
    taken = []
    for target in map(resolve, ("h200", "h100")):
        for group in groups:
            plans = [plan(it.product, target, ("auto",)) for it in group]
            by_kernels = [p for p in plans if p.implementation == "mosaic"]
            assert all(p.kernel.family is dense for p in by_kernels)
            taken.append(len(by_kernels))
    served = lambda product: product.role in dense.roles and not dense.reasons(product)
    suite, networks = (sum(served(it.product) for it in group) for group in groups)
    assert (
        f"Of the forward products and input gradients that the dense kernel serves, `auto` takes kernels for {taken[0]} of the "
        f"suite's {suite} and for {taken[1]} of {networks} in eight networks on the H200, for {taken[2]} and {taken[3]} on the "
        f"H100. For everything else, all weight gradients and depthwise layers among it, a `lax` program runs"
    ) in SAID

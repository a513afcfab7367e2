"""What the committed measurements on a CPU say, and what the README may therefore claim. Nothing is timed here."""

import functools
import json
import math
import pathlib
import statistics

import jax
import pytest

import pallas_conv as pc
from bench import chart
from bench.compile_time import programs
from bench.formulations import timed_as
from bench.loops import LOOPS
from bench.models import NETWORKS
from bench.test_layers import layers

RESULTS = pathlib.Path(chart.__file__).parent / "results"
LAYERS = json.loads((RESULTS / "layers_cpu.json").read_text())
ROWS = [b["extra_info"] for b in LAYERS["benchmarks"]]
STEPS = chart.rows(LAYERS)  # a training step of every layer in float32
LEAST = {  # geometric means of stock's time by ours
    "transposed 2-D": 8, "transposed 3-D": 18, "dense 3-D": 3.5, "depthwise 7x7": 8, "depthwise 3x3": 2.3,
    "depthwise 31x31": 40, "depthwise strided": 10, "depthwise 3-D": 22, "depthwise 1-D": 4.5, "grouped": 35,
}  # fmt: skip


def test_every_layer_was_measured_in_every_direction():
    assert len(ROWS) == 207
    assert len(STEPS) == 37
    assert LAYERS["machine_info"]["threads"] == 2


CASES = {c.name: c for c in layers()}


@pytest.mark.parametrize("name", CASES)
def test_the_rules_choose_today_what_was_measured(name):
    """Names of programs, not every detail of them."""
    for row in (r for r in ROWS if r["layer"] == name):
        case, direction = CASES[name], row["direction"]
        operands = jax.eval_shape(functools.partial(case.arrays, direction))
        plans = pc.explain(case.stock(direction, convert=pc.convert), *operands, device="cpu")
        assert [f"{p.product.role}: {timed_as(p.formulation)}" for p in plans] == row["products"]


def test_loops_as_the_readme_has_them():
    rows = json.loads((RESULTS / "loops_cpu.json").read_text())["loops"]
    assert [row["name"] for row in rows] == [loop.name for loop in LOOPS]
    assert {row["status"] for row in rows} == {"ok"}
    *naive, few = rows
    assert min(row["ratio"] for row in naive) >= 10
    assert few["ratio"] >= 0.97
    readme = (RESULTS.parents[1] / "README.md").read_text()
    for row in rows:
        ms = lambda t: f"{t:.0f}" if t >= 10 else f"{t:.1f}"
        ratio = f"{row['ratio']:.0f}x" if row["ratio"] >= 10 else f"{row['ratio']:.1f}x"
        assert f"| {ms(row['stock_ms'])} | {ms(row['ours_ms'])} | {ratio} |" in readme


def test_compile_times_as_the_readme_has_them():
    rows = json.loads((RESULTS / "compile_cpu.json").read_text())["programs"]
    assert [row["name"] for row in rows] == [program.name for program in programs()]
    times = {row["name"]: (row["stock_s"], row["ours_s"]) for row in rows}
    layers = [row for row in rows if row["kind"] == "layer"]
    over = [row["name"] for row in rows if not row["within"]]
    assert len([row for row in layers if not row["within"]]) <= 0.04 * len(layers), over
    assert [row["name"] for row in rows if row["kind"] == "network" and not row["within"]] == ["eight MBConv 7x7"]
    mean = math.exp(statistics.mean(math.log(row["ours_s"] / row["stock_s"]) for row in layers))
    readme = " ".join((RESULTS.parents[1] / "README.md").read_text().split())
    assert f"{mean:.2f}x of stock's over {len(layers)} layers" in readme
    beyond = [r["ours_s"] - 2 * r["stock_s"] - 0.2 for r in layers if not r["within"]]
    assert len(beyond) == 3
    assert f"are three of them, by at most {max(beyond):.1f} s" in readme
    slowest = max(r["ours_s"] / r["stock_s"] for r in rows if r["kind"] == "network" and r["within"])
    assert f"Networks take at most {slowest:.1f}x of stock's" in readme
    for name in ("HiFi-GAN generator", "eight MBConv 7x7"):
        stock_s, ours_s = times[name]
        assert f"{stock_s:.1f} s in stock and {ours_s:.1f} s in ours" in readme


@pytest.mark.parametrize("family", LEAST)
def test_families_that_xla_is_slow_at(family):
    assert chart.mean([r for r in STEPS if r["family"] == family], "ours") >= LEAST[family]


def test_all_of_them_together():
    assert chart.mean([r for r in STEPS if chart.group(r["family"]) in chart.HEAVY], "ours") >= 14


def test_the_dense_rest():
    assert chart.mean([r for r in STEPS if r["family"] in ("dense 2-D", "dense 1x1")], "ours") >= 1.1


def test_no_layer_takes_longer_to_train():
    slower = {r["layer"]: r["ratio"] for r in STEPS if r["ratio"] < 0.95}
    assert not slower


def test_compile_times():
    """Of a layer's training step, at most twice stock's and 0.3 s more, tracing included."""
    slow = {
        r["layer"]: (r["stock_compile_s"], r["ours_compile_s"])
        for r in STEPS
        if r["ours_compile_s"] > 2 * r["stock_compile_s"] + 0.3
    }
    assert not slow


def test_whole_networks():
    rows = {r["name"]: r for r in json.loads((RESULTS / "networks_cpu.json").read_text())["networks"]}
    assert set(rows) == set(NETWORKS)
    assert {r["status"] for r in rows.values()} == {"ok"}
    assert min(r["ratio"] for r in rows.values()) >= 1
    assert rows["unet3d"]["ratio"] >= 4
    assert rows["efficientnet"]["ratio"] >= 2.5

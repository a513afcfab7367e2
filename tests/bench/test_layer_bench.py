"""`make bench` measures what it says: every layer, forced formulations, PyTorch's results, and a chart of all rows."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import pallas_conv as pc
from bench import chart, torch_layers
from bench import test_layers as layer_bench
from bench.formulations import HALF_PRECISION
from workloads.cases import Case, suite

ROOT = pathlib.Path(chart.__file__).resolve().parents[1]
FAMILIES = {
    "transposed 1-D": 1, "transposed 2-D": 4, "transposed 3-D": 2, "depthwise 1-D": 2, "depthwise 3-D": 1,
    "depthwise 3x3": 1, "depthwise 7x7": 2, "depthwise 31x31": 1, "depthwise strided": 1, "grouped": 1,
    "dense 1-D": 2, "dense 1x1": 1, "dense 2-D": 15, "dense 3-D": 3,
}  # fmt: skip


def test_every_layer_of_a_cpus_size_is_measured_and_one_a_family_in_half_precision():
    layers = list(layer_bench.layers())
    single = [c for c in layers if c.dtype == "float32"]
    assert [c.name for c in single] == [c.name for c in suite() if c.on_cpu()]
    assert len(single) == 37
    half = {(c.name, c.dtype) for c in layers} - {(c.name, "float32") for c in single}
    assert half == {(f"{name}_{dtype}", dtype) for name in HALF_PRECISION for dtype in ("bfloat16", "float16")}
    assert {chart.group(chart.family(c)) for c in single if c.name in HALF_PRECISION} == set(chart.COLOURS)


def test_a_training_step_comes_after_its_products():
    for case in layer_bench.layers():
        found = layer_bench.directions(case)
        assert "".join(found) == (case.directions + "fb" if len(case.directions) > 1 else case.directions)


def test_families():
    found = [chart.family(c) for c in layer_bench.layers() if c.dtype == "float32"]
    assert {name: found.count(name) for name in found} == FAMILIES
    assert [chart.group(name) for name in ("transposed 1-D", "depthwise 7x7", "grouped", "dense 3-D", "dense 1x1")] == [
        *chart.COLOURS
    ]


# ------------------------------------------------------------ programs


def tiny(name, **change):
    case = next(c for c in suite() if c.name == name)
    return dataclasses.replace(case, batch=2, dtype="float32", **change)


DEPTHWISE = tiny("convnext_s1", in_channels=4, out_channels=4, groups=4, spatial=(9, 8))


def compiled(direction, by_role=None):
    layer = DEPTHWISE.stock(direction, convert=pc.convert)
    return layer_bench.compiled(layer, DEPTHWISE.arrays(direction), by_role)[0].as_text()


def test_forced_formulations_are_the_ones_compiled():
    assert "pallas_conv_fprop_im2col" in compiled("f", {"fprop": "im2col"})
    assert "pallas_conv_fprop_stock" in compiled("f", {"fprop": "stock"})
    step = compiled("fb", {"wgrad": "matmul_per_tap", "dgrad": "stock"})
    assert "pallas_conv_wgrad_matmul_per_tap" in step
    assert "pallas_conv_dgrad_stock" in step
    ours = compiled("f")
    assert "pallas_conv_fprop" in ours
    assert "im2col" not in ours


def planned(case, direction):
    operands = case.arrays(direction)
    layer = case.stock(direction, convert=pc.convert)
    programs = [layer_bench.compiled(f, operands)[0] for f in (case.stock(direction), layer)]
    return case, list(pc.explain(layer, *operands, device="cpu")), layer, operands, *programs


def test_the_best_formulation_is_one_that_serves_and_has_its_program(monkeypatch):
    monkeypatch.setattr(layer_bench, "RACE_SECONDS", 0.01)
    monkeypatch.setattr(layer_bench, "medians", lambda programs, *_: {name: name != "im2col" for name in programs})
    found, program = layer_bench.race(*planned(tiny("unet_mid", in_channels=3, out_channels=4, spatial=(6, 5)), "f"))
    assert found == {"fprop": "im2col"}
    assert "pallas_conv_fprop_im2col" in program.as_text()


def test_a_training_step_takes_the_best_of_each_product_once_all_are_known(monkeypatch):
    setting = planned(DEPTHWISE, "fb")
    *_, ours = setting
    chosen = {p.product.role: p.formulation for p in setting[1]}
    monkeypatch.setattr(layer_bench, "WINNERS", {DEPTHWISE.name: {"fprop": "im2col"}})
    assert layer_bench.step(*setting) == ({}, None)
    layer_bench.WINNERS[DEPTHWISE.name] = chosen
    assert layer_bench.step(*setting) == (chosen, ours)
    layer_bench.WINNERS[DEPTHWISE.name] = chosen | {"dgrad": "im2col"}
    _, program = layer_bench.step(*setting)
    assert "pallas_conv_dgrad_im2col" in program.as_text()


@pytest.mark.parametrize("fault", [lambda y: 1.001 * y, lambda y: y * np.where(y == y.max(), np.nan, 1)])
def test_a_wrong_result_is_refused(fault):
    y = np.arange(1.0, 9.0, dtype=np.float32)
    layer_bench.assert_close(DEPTHWISE, [y], [y])
    with pytest.raises(AssertionError):
        layer_bench.assert_close(DEPTHWISE, [y], [fault(y)])


# ------------------------------------------------------------ PyTorch

with_torch = pytest.mark.skipif(not torch_layers.INSTALLED, reason="PyTorch is not installed: its column stays empty")
TORCH_CASES = [
    tiny("pde_circular", in_channels=3, out_channels=4, spatial=(7, 6)),
    tiny("mamba_k4", in_channels=4, out_channels=4, groups=4, spatial=(11,)),  # causal, silu
    tiny("stylegan_up", in_channels=4, out_channels=6, groups=2, spatial=(5, 4)),  # transposed, output_padding
    tiny("resnet50_stem", out_channels=4, spatial=(9, 9)),  # no input gradient
    Case(
        "dilated_3d", "conv", 2, 4, 6, (6, 7, 8), (2, 3, 2), (1, 2, 1), ((1, 0), (2, 2), (0, 1)), (2, 1, 2), groups=2,
        dtype="float32",
    ),
    dataclasses.replace(tiny("mamba_k4", in_channels=2, out_channels=4, groups=2, spatial=(6,)), dtype="bfloat16"),
]  # fmt: skip


@with_torch
@pytest.mark.parametrize("case", TORCH_CASES, ids=lambda c: f"{c.name}_{c.dtype}")
def test_torch_computes_what_stock_does(case):
    for direction in layer_bench.directions(case):
        operands = case.arrays(direction, seed=5)
        want = layer_bench.reference(case, direction, operands, jax.jit(case.stock(direction)))
        program = torch_layers.program(case, direction, operands)
        for _ in range(2):  # it can be repeated
            got = torch_layers.arrays(case, direction, program())
            assert [a.shape for a in got] == [a.shape for a in want], direction
            layer_bench.assert_close(case, want, got)


@with_torch
def test_torch_has_no_gradient_per_example():
    case = next(c for c in suite() if c.per_example).on_cpu()
    assert torch_layers.program(case, "w", case.arrays("w")) is None


@pytest.mark.skipif(torch_layers.INSTALLED, reason="PyTorch is installed")
def test_without_torch_its_column_stays_empty():
    assert torch_layers.program(DEPTHWISE, "f", DEPTHWISE.arrays("f")) is None


# ------------------------------------------------------------ the run and the chart


def results(torch):
    """Results as if stock took 8 ms everywhere, ours 1, 2, 4 or 8 ms in turn, the best half of it and PyTorch 4 ms."""
    rows = []
    for i, case in enumerate(layer_bench.layers()):
        for direction in layer_bench.directions(case):
            ours = 2.0 ** (i % 4)
            times = {"stock_ms": 8.0, "ours_ms": ours, "best_ms": ours / 2, "torch_ms": 4.0 if torch else None}
            about = {name: getattr(case, name) for name in ("network", "dtype")}
            row = {"layer": case.name, "family": chart.family(case), "direction": direction, **about, **times}
            rows.append({"extra_info": row})
    machine = {"cpu": "Some CPU", "threads": 2, "jax": "0.11.2", "torch": "2.13.0" if torch else None}
    return {"machine_info": machine, "benchmarks": rows}


@pytest.mark.parametrize("torch", [True, False])
def test_the_chart_shows_every_layer(tmp_path, capsys, torch):
    (tmp_path / "rows.json").write_text(json.dumps(results(torch)))
    assert chart.main([str(tmp_path / "rows.json"), str(tmp_path / "made" / "cpu.png")]) == 0
    assert (tmp_path / "made" / "cpu.png").read_bytes()[1:4] == b"PNG"
    printed = capsys.readouterr().out
    rows = chart.rows(results(torch))
    assert [r["layer"] for r in rows if r["family"] == "weight gradient alone"] == ["per_example_wgrad"]
    assert sorted(r["layer"] for r in rows) == sorted(c.name for c in suite() if c.on_cpu())
    for name in [r["layer"] for r in rows] + list(FAMILIES):
        assert name in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("all (37)"))
    means = [chart.number(np.exp(np.mean([np.log(chart.ratio(r, p)) for r in rows]))) for p in ("ours", "best")]
    assert line.split()[2:5] == [*means, "2.00x" if torch else "-"]
    assert line.split()[5] == "1.00x"  # a row where nothing is gained stays


QUICKLY = """
import sys, pytest
class Quickly:
    def pytest_collection_finish(self):
        from bench import test_layers
        test_layers.SECONDS = test_layers.RACE_SECONDS = 0.02
sys.exit(pytest.main(sys.argv[1:], plugins=[Quickly()]))
"""


def test_a_run_stores_every_column(tmp_path):
    file = tmp_path / "rows.json"
    options = ["-q", "-k", "dcgan_t_last", f"--benchmark-json={file}", "--benchmark-disable-gc", "--benchmark-quiet"]
    command = [sys.executable, "-c", QUICKLY, "bench/test_layers.py", *options]
    # pytest-benchmark times nothing in a worker of pytest-xdist, and knows one by its environment.
    environment = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dcgan_t_last-fb: 100%" in done.stderr
    found = json.loads(file.read_text())
    assert {"cpu", "threads", "jax", "torch", "commit"} <= found["machine_info"].keys()
    rows = {b["extra_info"]["direction"]: b["extra_info"] for b in found["benchmarks"]}
    assert list(rows) == ["f", "d", "w", "fb"]
    for row in rows.values():
        assert row["ratio"] == row["stock_ms"] / row["ours_ms"]
        assert 0 < row["best_ms"] <= row["ours_ms"]
        assert (row["torch_ms"] is not None) == torch_layers.INSTALLED
        assert min(row["stock_compile_s"], row["ours_compile_s"]) > 0
        assert row["family"] == "transposed 2-D"
    assert [text.partition(":")[0] for text in rows["fb"]["best"]] == ["fprop", "dgrad", "wgrad"]
    assert chart.rows(found) == [rows["fb"]]

"""PyTorch beside us: what is timed and how, by a stand-in that counts time; where it is not installed nothing is."""

import types

import pytest

from bench import products, runner, torch_gpu, torch_layers
from bench.runner import log
from tests.bench import stand_in_torch
from workloads.cases import suite

CASES = {case.name: case for case in suite()}


class Context(types.SimpleNamespace):
    def alive(self, **_):
        self.signs += 1


def compared(monkeypatch, name, drops=0):
    gpu = stand_in_torch.Gpu(drops)
    torch = stand_in_torch.install(monkeypatch, torch_layers, gpu)
    context = Context(dry=False, signs=0)
    rows = {row["name"]: row for row in torch_gpu.compare(context, CASES[name])}
    assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.allow_tf32
    assert context.signs > 10
    return rows, gpu


def test_kernels_are_timed_without_the_gaps_between_them(monkeypatch):
    rows, gpu = compared(monkeypatch, "resnet50_c2")
    forward, gradient, step = (rows[f"resnet50_c2/{d}"] for d in ("f", "d", "fb"))
    assert (forward["ms"], forward["source"], forward["kernels"]) == (2.5, "cupti", 2)  # and a relu
    assert (gradient["ms"], gradient["kernels"]) == (3.0, 1)  # the forward pass was before
    assert (step["ms"], step["kernels"]) == (2.5 + 3 * 3.0, 5)  # of x, w and b
    assert forward["tflops"] == pytest.approx(CASES["resnet50_c2"].flops() / 2.5e9)
    assert gpu.layouts == {"NHWC"}


def test_volumes_are_channels_last_too(monkeypatch):
    rows, gpu = compared(monkeypatch, "nnunet_up")
    assert set(rows) == {f"nnunet_up/{d}" for d in ("f", "d", "fb")}
    assert gpu.layouts == {"NDHWC"}


def test_where_records_are_missing_events_take_their_place(monkeypatch):
    rows, _ = compared(monkeypatch, "resnet50_c2", drops=1)
    forward = rows["resnet50_c2/f"]
    assert (forward["ms"], forward["source"]) == (2.5, "wall")
    assert "CUPTI saw" in forward["note"]


def test_peaks_are_of_the_work_they_name(monkeypatch):
    stand_in_torch.install(monkeypatch, torch_layers, stand_in_torch.Gpu())
    context = Context(dry=False, signs=0)
    (copy,), (gemm,) = (list(torch_gpu.peak(context, of)) for of in ("copy", "gemm_bf16"))
    assert copy["gbps"] == pytest.approx(8 * 2**28 / 0.5e6)
    assert gemm["tflops"] == pytest.approx(2 * 8192**3 / 1e9)


def test_without_pytorch_the_script_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch_layers, "INSTALLED", False)
    assert torch_gpu.SCRIPT.incomplete([]) == ""
    assert runner.main(torch_gpu.SCRIPT, ["--dry-run", "--in-process", f"--out={tmp_path}"]) == 0
    (file,) = tmp_path.glob("torch_gpu-*-dry-run.jsonl")
    rows = [row for row in log.read(file) if row["kind"] in ("peak", "time")]
    assert len(rows) == 2 + len([name for name in torch_gpu.CASES if CASES[name].on_cpu()])
    assert {row["status"] for row in rows} == {"skipped: PyTorch is not installed"}
    assert "PYTORCH IS NOT INSTALLED" in capsys.readouterr().out


@pytest.mark.skipif(not torch_layers.INSTALLED, reason="PyTorch is not installed")
def test_a_dry_run_times_pytorch_on_the_cpu(tmp_path):
    options = ["--dry-run", "--in-process", f"--out={tmp_path}", "--cases=nnunet_up|resnet50_c4$"]
    assert runner.main(torch_gpu.SCRIPT, options) == 0
    (file,) = tmp_path.glob("*.jsonl")
    assert len([row for row in log.read(file) if row["kind"] == "time" and row["ms"] > 0]) == 6


def test_twelve_layers_that_a_kernel_serves():
    assert len(set(torch_gpu.CASES)) == 12
    assert all(products.served(CASES[name], d) for name in torch_gpu.CASES for d in "fd")

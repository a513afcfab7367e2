"""The GPU script, without a GPU: a dry run takes every kind of step, faults are reported, nothing is swallowed."""

import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc
from bench import gpu
from bench.cases import suite
from bench.correctness import MEDIUM, SMALL
from pallas_conv.kernels import launch as launch_module

ROOT = pathlib.Path(gpu.__file__).resolve().parents[1]


def rows_in(folder):
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(folder, *arguments, **env):
    command = [sys.executable, "-m", "bench.gpu", "--out", str(folder), *arguments]
    env = os.environ | env
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=280)


ABSENT = ("tqdm", "inox", "platformdirs", "matplotlib", "optax")  # from the machine that has the GPU


def test_a_dry_run_takes_every_kind_of_step(tmp_path, tmp_path_factory):
    missing = tmp_path_factory.mktemp("missing")
    for name in ABSENT:
        (missing / f"{name}.py").write_text("raise ImportError('not installed there')")
    few = ("--minutes=4", "--cases=dcgan_t_last", "--problems=small_(odd|depthwise)")
    done = run(tmp_path, "--dry-run", *few, PYTHONPATH=str(missing))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_in(tmp_path)
    assert {r["kind"] for r in rows} == {"run", "device", "probe", "compile", "correctness", "peak", "time"}
    assert all({"kind", "name", "status", "t"} <= r.keys() for r in rows)
    assert not [r for r in rows if r["status"] in gpu.BAD]
    by = {(r["kind"], r["name"], r.get("impl")): r for r in rows}
    checked = by["correctness", "small_odd_channels/f", None]
    assert checked["status"] == "ok"
    assert 0 < checked["error"] <= checked["bound"]
    assert by["correctness", "small_depthwise/f", None]["reasons"]
    assert sum(r["programs"] for r in rows if r["kind"] == "compile") >= 4  # two directions, ours and stock's
    for direction in ("f", "d", "w", "fb"):
        timed = by["time", f"dcgan_t_last/{direction}", "stock"]
        assert timed["status"] == "ok"
        assert timed["fraction"] == pytest.approx(timed["floor_ms"] / timed["ms"])
    assert "NOT A GPU" in done.stdout
    assert "dcgan_t_last/fb" in done.stdout.splitlines()[-3]


def test_without_a_gpu_it_says_so(tmp_path):
    done = run(tmp_path, JAX_PLATFORMS="cpu")
    assert done.returncode == 2
    assert "no GPU" in done.stderr


def in_process(folder, *arguments):
    return gpu.main(["--dry-run", "--in-process", f"--out={folder}", "--minutes=2", *arguments])


GATE = ("--only=correctness", "--problems=small_odd_channels")


def test_a_wrong_kernel_is_found(tmp_path, monkeypatch):
    (case,) = (c for c in SMALL if c.name == "small_odd_channels")
    stock = {"fprop": case.stock("f"), "dgrad": case.stock("d")}
    monkeypatch.setattr(launch_module, "launch", lambda p, config, *args, **how: [1.1 * stock[p.role](*args)])
    assert in_process(tmp_path, *GATE) == 1
    found = {r["name"]: r["status"] for r in rows_in(tmp_path) if r["kind"] == "correctness"}
    assert found["small_odd_channels/f"] == found["small_odd_channels/d"] == "wrong"
    assert found["small_odd_channels/w"] == "unsupported"


def test_an_exception_costs_its_own_row_only(tmp_path, monkeypatch, capsys):
    def broken(*args, **how):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(launch_module, "launch", broken)
    assert in_process(tmp_path, *GATE) == 1
    found = [r for r in rows_in(tmp_path) if r["kind"] == "correctness"]
    assert [r["status"] for r in found] == ["error", "error", "unsupported"]
    assert found[0]["exception"] == "RuntimeError: no such kernel"
    assert "broken" in found[0]["traceback"]
    assert "BAD  correctness small_odd_channels/f : error RuntimeError: no such kernel" in capsys.readouterr().out


def test_what_does_not_fit_is_said_to_be_skipped(tmp_path, capsys):
    assert in_process(tmp_path, "--minutes=0", "--cases=c2") == gpu.INCOMPLETE
    assert {r["status"] for r in rows_in(tmp_path)[1:]} == {gpu.OUT_OF_TIME}
    assert f"INCOMPLETE: no time for {len(rows_in(tmp_path)) - 1} steps" in capsys.readouterr().out


def test_to_check_no_kernel_is_no_success(tmp_path, capsys):
    assert in_process(tmp_path, "--only=correctness", "--problems=small_depthwise") == gpu.INCOMPLETE
    assert "INCOMPLETE: no kernel was checked" in capsys.readouterr().out


WORKER = """
import os, sys, time
first = int(sys.argv[1])
names = ["fine", "dies", "hangs", "loses", "last"]
for i in range(first, 5):
    print("@begin", i, "probe", names[i], flush=True)
    if i == 1: os._exit(9)
    if i == 2: time.sleep(60)
    if i == 3: os._exit(70)
"""


def test_work_goes_on_after_a_step_that_dies_or_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_command", lambda options, first: [sys.executable, "-c", WORKER, str(first)])
    monkeypatch.setattr(gpu, "STEP_SECONDS", 3)
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 1)
    assert gpu.main([f"--out={tmp_path}"]) == 1
    assert [(r["name"], r["status"]) for r in rows_in(tmp_path)[1:]] == [("dies", "crashed"), ("hangs", "hung")]


COMPILER = """
import os, sys
first, alone = int(sys.argv[1]), "--one-by-one" in sys.argv
for i in range(first, 3):
    if not alone and i == 1:
        print("@begin", i, "compile", "2_from_probe_a", flush=True)
        os._exit(9)
    print("@begin", i, "probe", "abc"[i], flush=True)
    print("took", i, flush=True)
"""


def test_after_a_compilation_that_dies_programs_are_compiled_one_by_one(tmp_path, monkeypatch, capsys):
    command = lambda options, first: [sys.executable, "-c", COMPILER, str(first), *options.arguments]
    monkeypatch.setattr(gpu, "_command", command)
    assert gpu.main([f"--out={tmp_path}"]) == 1
    assert [(r["name"], r["status"]) for r in rows_in(tmp_path)[1:]] == [("2_from_probe_a", "crashed")]
    assert [line for line in capsys.readouterr().out.splitlines() if line[:4] == "took"] == [
        "took 0",
        "took 1",
        "took 2",
    ]


def test_programs_are_compiled_ahead_within_a_part_of_the_time_left(tmp_path):
    context = gpu.Context(gpu.parse([f"--out={tmp_path}", "--dry-run", "--minutes=9"]))
    jobs = [(SMALL[0], "f"), (SMALL[0], "d")]
    assert gpu.compile_ahead(context, jobs) == 4
    assert set(context.programs) == {(SMALL[0].name, d, impl) for d in "fd" for impl in ("stock", "ours")}
    context.options.minutes = 0
    assert gpu.compile_ahead(context, jobs) == 0


def test_a_worker_that_never_starts_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "_command", lambda options, first: [sys.executable, "-c", "raise SystemExit(5)"])
    assert gpu.main([f"--out={tmp_path}"]) == 1
    assert rows_in(tmp_path)[-1]["exception"] == "exit status 5 before the first step"


def test_steps_are_the_same_list_every_time_and_served_layers_come_first():
    options = gpu.parse([])
    steps = gpu.steps(options)
    names = [(s.kind, s.name) for s in steps]
    assert names == [(s.kind, s.name) for s in gpu.steps(options)]
    assert len(set(names)) == len(names)
    kinds = [kind for kind, _ in names]
    assert sorted(set(kinds), key=kinds.index) == ["device", "probe", "correctness", "peak", "time"]
    assert names.index(("time", "resnet50_c2/f")) < names.index(("time", "convnext_s1/f"))
    assert names.index(("time", "resnet50_c2/d")) < names.index(("correctness", "medium_3x3/f"))
    assert all(s.job for s in steps if s.kind == "time")
    assert {s.name: bool(s.job) for s in steps}["small_3x3/f"]
    assert not {s.name: bool(s.job) for s in steps}["small_3x3/w"]  # there is nothing to check


def test_a_table_shows_ours_beside_stock():
    timed = {"kind": "time", "name": "a/f", "status": "ok", "tflops": 500.0, "gbps": 900.0, "fraction": 0.75}
    rows = [timed | {"impl": "stock", "ms": 2.0}, timed | {"impl": "ours", "ms": 1.0, "ratio": 2.0, "ratio_best": 1.5}]
    numbers = ["500.0", "900", "75.0%"]
    assert gpu.table(rows).splitlines()[-1].split() == ["a/f", "2.0000", "-", "1.0000", "1.50", *numbers]
    rows.insert(1, timed | {"impl": "best", "ms": 1.5, "ratio": 1.33})
    assert gpu.table(rows).splitlines()[-1].split() == ["a/f", "2.0000", "1.5000", "1.0000", "1.50", *numbers]


# ------------------------------------------------------------ what happens on a GPU, with stand-ins for it and its kernel

CASE = SMALL[0]
PEAKS = {"copy": 3e12, "gemm_bf16": 8e14}


def compared(tmp_path, monkeypatch, kernel, case=CASE, into=None):
    """The rows of a case's forward as if a Hopper were here and `kernel` made our result of stock's."""
    device = types.SimpleNamespace(compute_capability="9.0", core_count=132, memory_stats=lambda: None)
    monkeypatch.setattr(gpu.Context, "device", device)
    explain = pc.explain
    monkeypatch.setattr(pc, "explain", lambda f, *args, device: explain(f, *args, device="h100"))
    stock = case.stock("f")
    monkeypatch.setattr(launch_module, "launch", lambda product, config, *operands, **how: [kernel(stock(*operands))])
    context = gpu.Context(gpu.parse([f"--out={tmp_path}"]), dict(PEAKS))
    found = [] if into is None else into
    found.extend(gpu.compare(context, case, "f"))  # up to an exception
    return {row["impl"]: row for row in found}


def test_ours_is_timed_beside_stock(tmp_path, monkeypatch):
    rows = compared(tmp_path, monkeypatch, lambda y: y)
    ours, stock = rows["ours"], rows["stock"]
    assert "status" not in ours  # none is "ok"
    assert ours["ratio"] == stock["ms"] / ours["ms"]
    assert ours["difference"] == 0
    assert ours["variant"] == "dense_fprop_2d_bf16_s1_bias"
    seconds = max(CASE.flops() / PEAKS["gemm_bf16"], CASE.nbytes() / PEAKS["copy"])
    assert ours["floor_ms"] == pytest.approx(1e3 * seconds)
    assert ours["fraction"] == pytest.approx(ours["floor_ms"] / ours["ms"])


def test_the_best_lax_program_is_timed_where_it_is_not_stocks(tmp_path, monkeypatch):
    (case,) = (c for c in MEDIUM if c.name == "medium_up")
    rows = compared(tmp_path, monkeypatch, lambda y: y, case)
    assert set(rows) == {"stock", "best", "ours"}
    assert rows["best"]["ratio"] == rows["stock"]["ms"] / rows["best"]["ms"]
    least = min(rows[impl]["ms"] for impl in ("stock", "best"))
    assert rows["ours"]["ratio_best"] == least / rows["ours"]["ms"]


def test_a_training_step_is_that_of_the_converted_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.Context, "capability", gpu.HOPPER)
    context = gpu.Context(gpu.parse([f"--out={tmp_path}", "--dry-run"]), dict(PEAKS))
    (case,) = (c.on_cpu() for c in suite() if c.name == "dcgan_t_last")
    rows = {row["impl"]: row for row in gpu.compare(context, case, "fb")}
    assert rows["ours"]["ms"] > 0
    assert 0 <= rows["ours"]["difference"] < 0.1
    assert 0 <= rows["ours"]["gradient_difference"] < 0.1


def test_a_row_is_json_whatever_is_in_it(tmp_path):
    log = gpu.Log(gpu.parse([f"--file={tmp_path / 'rows.jsonl'}"]))
    log("correctness", "a/f", {"status": "wrong", "error": float("nan"), "longest": [("k", float("inf"))]})
    refuse = lambda name: pytest.fail(f"{name} is no JSON")
    (row,) = (json.loads(line, parse_constant=refuse) for line in log.path.read_text().splitlines())
    assert (row["error"], row["longest"]) == ("nan", [["k", "inf"]])


def test_half_a_row_is_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"kind": "probe", "name": "a"}\n{"kind": "probe", "na')
    assert gpu._rows(file) == [{"kind": "probe", "name": "a"}]


def test_poison_fills_what_is_free_in_the_largest_piece_there_is(monkeypatch):
    made, full = [], jnp.full
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 100 * 2**20, "bytes_in_use": 60 * 2**20})

    def fragmented(count, *value, device):
        made.append(4 * count)
        if 4 * count > 20 * 2**20:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")
        return full(count, *value)

    monkeypatch.setattr(jnp, "full", fragmented)
    gpu.poison(device)
    assert made == [36 * 2**20, 18 * 2**20]


@pytest.mark.parametrize("fault", [lambda y: 1.05 * y, lambda y: 1.03 * y, lambda y: y.at[1, 2, 3, 4].set(jnp.nan)])
def test_no_time_is_reported_for_a_wrong_result(tmp_path, monkeypatch, fault):
    rows = compared(tmp_path, monkeypatch, fault)
    assert rows["ours"]["status"] == "wrong"
    assert not {"ms", "ratio"} & rows["ours"].keys()
    assert rows["stock"]["ms"] > 0


def test_stock_is_timed_where_ours_fails(tmp_path, monkeypatch):
    def fails(y):
        raise RuntimeError("ptxas")

    rows = compared(tmp_path, monkeypatch, fails)
    assert rows["ours"]["status"] == "error"
    assert rows["ours"]["exception"] == "RuntimeError: ptxas"
    assert rows["stock"]["ms"] > 0


def test_what_took_the_device_down_is_told(tmp_path, monkeypatch):
    def fails(*args):
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(gpu, "_lost", lambda: RuntimeError("lost"))
    found = []
    with pytest.raises(RuntimeError, match="ILLEGAL_ADDRESS"):
        compared(tmp_path, monkeypatch, fails, into=found)
    (row,) = found
    assert (row["impl"], row["status"], row["variant"]) == ("ours", "error", "dense_fprop_2d_bf16_s1_bias")
    assert "fails" in row["traceback"]


def test_a_worker_stops_when_its_device_is_lost(tmp_path, monkeypatch):
    def lost(*args):
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    step = gpu.Step("probe", "poisoned", lost)
    monkeypatch.setattr(gpu, "steps", lambda options: [step, step])
    monkeypatch.setattr(jax, "device_put", lost)
    options = gpu.parse([f"--file={tmp_path / 'rows.jsonl'}"])
    assert gpu.work(options) == gpu.LOST
    assert [(r["name"], r["status"]) for r in rows_in(tmp_path)] == [("poisoned", "error"), ("device lost", "error")]


def test_peaks_survive_a_restart(tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"name": "copy", "gbps": 3000.0}, {"name": "gemm_f16", "tflops": 700.0}]
    file.write_text("\n".join(json.dumps({"kind": "peak", "status": "ok"} | row) for row in rows))
    assert gpu._peaks(file) == {"copy": 3e12, "gemm_f16": 7e14}

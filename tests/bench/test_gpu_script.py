"""The GPU script, without a GPU: a dry run takes every kind of step, faults are reported, nothing is swallowed.

What happens to a kernel that hangs or crashes is the runner's: see test_runner.py.
"""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import time
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import gate, gpu, products, record, runner, speed, table
from bench.correctness import MEDIUM, SMALL
from bench.runner import log, programs, summary, worker
from compiled import aot
from pallas_conv import formulations
from pallas_conv.kernels import digest
from pallas_conv.kernels.evidence import Facts
from pallas_conv.target import resolve
from pallas_conv.verify import check, timing
from workloads import ladder
from workloads.cases import suite

ROOT = pathlib.Path(gpu.__file__).resolve().parents[1]
ABSENT = ("tqdm", "inox", "platformdirs", "matplotlib", "optax")  # from the machine that has the GPU
H100 = resolve("h100")


def rows_in(folder):
    (file,) = folder.glob("*.jsonl")
    return log.read(file)


def test_a_dry_run_takes_every_kind_of_step(tmp_path, tmp_path_factory):
    missing = tmp_path_factory.mktemp("missing")
    for name in ABSENT:
        (missing / f"{name}.py").write_text("raise ImportError('not installed there')")
    few = ("--minutes=4", "--cases=dcgan_t_last", "--problems=small_(odd|depthwise)", "--rungs=^one tile$")
    command = [
        sys.executable,
        "-m",
        "bench.gpu",
        "--dry-run",
        f"--out={tmp_path}",
        f"--cache={tmp_path / 'cache'}",
        *few,
    ]
    env = os.environ | {"PYTHONPATH": str(missing)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_in(tmp_path)
    kinds = ["run", "device", "peak", "compile", "stock", "probe", "ladder", "path", "correctness", "time", "spread"]
    assert list(dict.fromkeys(r["kind"] for r in rows)) == kinds
    assert all({"kind", "name", "status", "t"} <= r.keys() for r in rows)
    assert not [r for r in rows if r["status"] in runner.BAD]
    by = {(r["kind"], r["name"], r.get("impl")): r for r in rows}
    for checked in (by["correctness", "small_odd_channels/f", None], by["ladder", "one_tile_of_two_steps", None]):
        assert checked["status"] == "ok"
        assert 0 < checked["error"] <= checked["bound"]
        assert {
            "product",
            "config",
            "num_sms",
            "facts",
            "code_path",
            "variant",
            "seed",
            "deterministic",
        } <= checked.keys()
    assert by["ladder", "one_tile_of_two_steps", None]["rung"] == "one tile"
    assert by["correctness", "small_depthwise/f", None]["reasons"]
    for direction in ("f", "d", "w", "fb"):
        timed = by["time", f"dcgan_t_last/{direction}", "stock"]
        assert timed["status"] == "ok"
        assert timed["fraction"] == pytest.approx(timed["floor_ms"] / timed["ms"])
    again = by["spread", "dcgan_t_last/f", None]
    assert again["first_ms"] == by["stock", "dcgan_t_last/f", None]["ms"]
    assert again["ratio"] >= 1
    shown = done.stdout.partition("\ncase ")[2].splitlines()
    assert any(line.startswith("dcgan_t_last/fb") for line in shown[:9])
    assert "NOT A GPU: times only show that the script runs" in shown
    assert shown[-1].startswith("results: ")


# ------------------------------------------------------------ the gate


def in_process(folder, *arguments):
    words = ["--dry-run", "--in-process", f"--out={folder}", f"--cache={folder / 'cache'}", "--minutes=2", *arguments]
    return runner.main(gpu.SCRIPT, words)


GATE = ("--only=correctness", "--problems=small_odd_channels")


def test_a_wrong_kernel_is_found(tmp_path, monkeypatch):
    def nearly(product, config, *operands, **how):
        return [1.1 * y for y in products._without_kernels(resolve("cpu"), product, *operands)]

    monkeypatch.setattr(products, "launch", nearly)
    assert in_process(tmp_path, *GATE) == 1
    found = {r["name"]: r for r in rows_in(tmp_path) if r["kind"] == "correctness"}
    assert found["small_odd_channels/f"]["status"] == found["small_odd_channels/d"]["status"] == "wrong"
    assert found["small_odd_channels/f"]["facts"]["code_path"]  # which a record files as wrong
    assert found["small_odd_channels/w"]["status"] == "unsupported"


def test_an_exception_costs_its_own_row_only(tmp_path, monkeypatch, capsys):
    def broken(*args, **how):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(products, "launch", broken)
    assert in_process(tmp_path, *GATE) == 1
    found = [r for r in rows_in(tmp_path) if r["kind"] == "correctness"]
    assert [r["status"] for r in found] == ["error", "error", "unsupported"]
    assert found[0]["exception"] == "RuntimeError: no such kernel"
    assert "broken" in found[0]["traceback"]
    assert "BAD  correctness small_odd_channels/f: error RuntimeError: no such kernel" in capsys.readouterr().out


def test_to_check_no_kernel_is_no_success(tmp_path, capsys):
    assert in_process(tmp_path, "--only=correctness", "--problems=small_depthwise") == runner.INCOMPLETE
    assert "INCOMPLETE: no kernel was checked" in capsys.readouterr().out


def test_of_several_outputs_the_worst_is_told():
    (case,) = (c for c in ladder.CASES if c.name == "1x1, both outputs")
    operands = tuple(map(np.asarray, case.operands()))
    right = products._without_kernels(resolve("cpu"), case.product, *operands)
    assert gate._worst(case.product, operands, right, right)[1]
    worst, all_right = gate._worst(case.product, operands, [right[0], right[1] + 1], right)
    assert not all_right
    assert worst.error > worst.bound


def test_the_first_result_is_there_while_the_second_is_made():
    (case,) = (c for c in ladder.CASES if c.name == "one tile of two steps")
    right, results = products._without_kernels(resolve("cpu"), case.product, *case.operands()), []

    def launch(*_, **about):
        assert all(made() is not None for made in results)
        made = jnp.copy(right[0])
        results.append(weakref.ref(made))
        return [made]

    built = types.SimpleNamespace(call=lambda *_: right, about={})
    context = types.SimpleNamespace(
        dry=False, seed=1, launch=launch, alive=lambda: None, compiled=lambda program: built
    )  # fmt: skip
    step = gate.configured_step("ladder", case, False)
    (row,) = (r for r in step.work(context) if "not poisoned" not in r["status"])
    assert (row["status"], row["deterministic"], len(results)) == ("ok", True, 2)


# ------------------------------------------------------------ the order


def steps_on_hopper(monkeypatch, *arguments):
    monkeypatch.setattr(gpu, "resolve", lambda device: H100)
    return gpu.steps(runner.parse(gpu.SCRIPT, list(arguments)))


def test_what_cannot_hang_comes_first_then_the_ladder_from_its_foot(monkeypatch):
    steps = steps_on_hopper(monkeypatch)
    names = [(s.kind, s.name) for s in steps]
    assert len(set(names)) == len(names)
    kinds = list(dict.fromkeys(s.kind for s in steps))
    assert kinds == ["peak", "stock", "probe", "ladder", "path", "correctness", "time", "spread"]
    hazardous = [any(p.kernel for p in s.programs) for s in steps]
    assert not any(hazardous[: names.index(("probe", gpu.probes.probes()[0].name))])
    assert [s.name for s in steps if s.kind == "ladder"] == [str(case) for case in ladder.CASES]
    assert names.index(("time", "resnet50_c2/d")) < names.index(("spread", "stock"))
    assert names.index(("spread", "stock")) < names.index(("time", "convnext_s1/f"))  # which no kernel serves
    assert {f"{s.name}" for s in steps if s.kind == "stock"} == set(gpu.FIRST)


def test_kernels_can_be_lowered_by_other_processes(monkeypatch):
    wanted = {p for s in steps_on_hopper(monkeypatch) for p in s.programs if p.kernel}
    assert all(p.portable for p in wanted if "/fb " not in p.name)
    assert len(pickle.dumps([p for p in wanted if p.portable])) > 0


def test_what_is_likely_lost_together_asks_one_question(monkeypatch):
    steps = steps_on_hopper(monkeypatch)
    asked = {s.name: s.programs[0].question for s in steps if s.kind == "probe"}
    assert asked["view_load_32B_1x64"] == asked["view_load_128B_1x64"] != asked["store_clips"]
    rungs = {s.name: s.programs[0].question for s in steps if s.kind == "ladder"}
    assert all(rungs[str(case)] == rung.feature for rung in ladder.LADDER for case in rung.cases)


def test_what_is_beside_a_kernel_is_measured_if_that_is_lost(monkeypatch):
    assert all(s.again == (s.kind == "time") for s in steps_on_hopper(monkeypatch))


@pytest.mark.parametrize("word", ["--cases", "--problems", "--rungs"])
def test_what_is_no_regular_expression_is_refused_before_a_worker_starts(word, capsys):
    with pytest.raises(SystemExit):
        runner.parse(gpu.SCRIPT, [f"{word}=[a"])
    assert f"argument {word}: '[a' cannot be used" in capsys.readouterr().err


@pytest.mark.aot
def test_what_another_process_lowered_compiles_for_hopper(tmp_path):
    case = ladder.CASES[0]
    program = products.kernel("a", case.product, case.config, 132)
    lowered = programs.lower(program.make(), "cuda")
    exported, about = pickle.loads(lowered)
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in exported.in_avals]
    assert "mosaic_gpu" in aot.compile_for("h100", exported.call, *shapes).as_text()
    assert about["code_path"] == about["facts"]["code_path"]
    json.dumps(about)


# ------------------------------------------------------------ what happens on a GPU, with stand-ins for it and its kernel

CASE = SMALL[0]
PEAKS = {"copy": {"gbps": 3000.0}, "gemm_bf16": {"tflops": 800.0}}


def context_in(folder, *rows):
    file = folder / "rows.jsonl"
    peaks = [{"kind": "peak", "name": name, "status": "ok"} | row for name, row in PEAKS.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*peaks, *rows]))
    words = [f"--out={folder}", f"--cache={folder / 'cache'}", f"--file={file}", "--processes=0"]
    options = runner.parse(gpu.SCRIPT, words)
    return runner.Context(options, log.Log(file, time.time()))


def compared(folder, monkeypatch, kernel, case=CASE, direction="f", into=None, rows=()):
    """The rows of a case as if a Hopper were here and `kernel` made our result of the usual one."""
    monkeypatch.setattr(worker, "capability", lambda dry: (9, 0))
    launch = lambda p, config, *operands, **how: [
        kernel(y) for y in products._without_kernels(resolve("cpu"), p, *operands)
    ]
    monkeypatch.setattr(products, "launch", launch)
    found = [] if into is None else into
    step = speed.compare(case, direction, H100, 132, dry=False)
    found.extend(step.work(context_in(folder, *rows)))  # up to an exception
    return {row["impl"]: row for row in found}


def test_ours_is_timed_beside_stock(tmp_path, monkeypatch):
    rows = compared(tmp_path, monkeypatch, lambda y: y)
    ours, stock = rows["ours"], rows["stock"]
    assert "status" not in ours  # none is "ok"
    assert ours["ratio"] == stock["ms"] / ours["ms"]
    assert ours["difference"] < 0.01
    assert ours["variant"] == "dense_fprop_2d_bf16_s1_bias"
    assert (ours["lax"], ours["lax_ms"], ours["lax_us"]) == (formulations.STOCK, stock["ms"], 1e3 * stock["ms"])
    assert ours["kernel_us"] == 1e3 * ours["ms"]
    seconds = max(CASE.flops() / 8e14, CASE.nbytes() / 3e12)
    assert ours["floor_ms"] == pytest.approx(1e3 * seconds)
    assert ours["fraction"] == pytest.approx(ours["floor_ms"] / ours["ms"])


def test_the_best_lax_program_is_timed_where_it_is_not_stocks(tmp_path, monkeypatch):
    (case,) = (c for c in MEDIUM if c.name == "medium_up")
    rows = compared(tmp_path, monkeypatch, lambda y: y, case)
    assert set(rows) == {"stock", "best", "ours"}
    assert rows["best"]["ratio"] == rows["stock"]["ms"] / rows["best"]["ms"]
    least = min(rows[impl]["ms"] for impl in ("stock", "best"))
    assert rows["ours"]["ratio_best"] == least / rows["ours"]["ms"]
    assert rows["ours"]["lax_ms"] == rows["best"]["ms"]
    assert rows["ours"]["lax"] == products.formulation(case, "f", H100) != formulations.STOCK


def test_no_other_time_stands_in_for_the_rivals(tmp_path, monkeypatch):
    (case,) = (c for c in MEDIUM if c.name == "medium_up")
    best = products._best
    worse = lambda *args: (source := best(*args))._replace(function=lambda *v: 1.1 * source.function(*v))
    monkeypatch.setattr(products, "_best", worse)
    rows = compared(tmp_path, monkeypatch, lambda y: y, case)
    assert rows["best"]["status"] == "wrong"
    assert rows["ours"]["ratio"] > 0
    assert not {"lax_ms", "lax_us", "kernel_us"} & rows["ours"].keys()


def test_a_training_step_is_that_of_the_converted_layer(tmp_path, monkeypatch):
    (case,) = (c.on_cpu() for c in suite() if c.name == "dcgan_t_last")
    rows = compared(tmp_path, monkeypatch, lambda y: y, case, "fb")
    assert rows["ours"]["ms"] > 0
    facts = [Facts.from_json(it) for it in rows["ours"]["several_facts"]]
    assert rows["ours"]["code_paths"] == sorted({it.code_path for it in facts}) != []
    assert 0 <= rows["ours"]["difference"] < 0.1
    assert 0 <= rows["ours"]["gradient_difference"] < 0.1


@pytest.mark.parametrize("fault", [lambda y: 1.05 * y, lambda y: 1.03 * y, lambda y: y.at[1, 2, 3, 4].set(jnp.nan)])
def test_no_time_is_reported_for_a_wrong_result(tmp_path, monkeypatch, fault):
    rows = compared(tmp_path, monkeypatch, fault)
    assert rows["ours"]["status"] == "wrong"
    assert not {"ms", "ratio", "kernel_us", "lax_us"} & rows["ours"].keys()
    assert rows["stock"]["ms"] > 0


def fails(y):
    raise RuntimeError("ptxas")


def test_stock_is_timed_where_ours_fails(tmp_path, monkeypatch):
    rows = compared(tmp_path, monkeypatch, fails)
    assert rows["ours"]["status"] == "error"
    assert rows["ours"]["exception"] == "RuntimeError: ptxas"
    assert rows["stock"]["ms"] > 0


def test_stock_is_timed_where_ours_must_not_run_any_more(tmp_path, monkeypatch):
    hung = [{"kind": "path", "name": p, "status": "hung", "kernel": True, "code_path": p} for p in "abc"]
    rows = compared(tmp_path, monkeypatch, lambda y: pytest.fail("launched"), rows=hung)
    assert rows["ours"]["status"] == "skipped: 3 kernels hung or crashed before"
    assert rows["stock"]["ms"] > 0


def test_what_took_the_device_down_is_told(tmp_path, monkeypatch):
    def loses(y):
        monkeypatch.setattr(check, "lost", lambda: RuntimeError("lost"))
        raise RuntimeError("ILLEGAL_ADDRESS")

    found = []
    with pytest.raises(RuntimeError, match="ILLEGAL_ADDRESS"):  # which the runner files with what was launched
        compared(tmp_path, monkeypatch, loses, into=found)
    assert not found


def test_before_a_launch_it_is_said_what_is_launched(tmp_path, monkeypatch, capfd):
    parse = runner.parse
    monkeypatch.setattr(runner, "parse", lambda script, words: parse(script, [*words, "--worker=0"]))
    compared(tmp_path, monkeypatch, lambda y: y)
    told = [json.loads(line.partition(" ")[2]) for line in capfd.readouterr().out.splitlines() if "@alive {" in line]
    assert told[1].keys() == {"seed"}  # as ours is held against float64
    told = [about for about in told if "impl" in about]
    # Ours runs before there is a right result, which free memory might hold where ours writes nothing.
    assert [about["impl"] for about in told] == ["ours", "stock", "in turns"]
    assert [about["kernel"] for about in told] == [True, False, True]
    assert "facts" not in told[1]  # it would be filed as wrong if stock hung
    assert told[0]["config"]["box"]


# ------------------------------------------------------------ poison


def poisoned(monkeypatch, folder, limit, fill=lambda count, *value: jnp.zeros(8)):
    device = types.SimpleNamespace(memory_stats=lambda: limit and {"bytes_limit": limit})
    monkeypatch.setattr(gate.jax, "devices", lambda: [device])
    monkeypatch.setattr(gate.jnp, "full", fill)
    context = context_in(folder)
    return context, list(gate.poison(context))


def test_poison_has_one_size_so_it_is_compiled_once(monkeypatch, tmp_path):
    made = []
    context, rows = poisoned(monkeypatch, tmp_path, 64e9, lambda count, *value: made.append(count) or jnp.zeros(8))
    assert not rows + list(gate.poison(context))
    assert made == [1_000_000_000]  # words of four bytes, traced once
    (small,) = gate.poisoning()
    monkeypatch.setattr(gate, "POISON_BYTES", 1e12)
    (quarter,) = gate.poisoning()
    assert (small.name, quarter.name) == ("poison of 4000000000 bytes", "poison of 16000000000 bytes")


def test_without_a_gpu_there_is_nothing_to_poison(monkeypatch, tmp_path):
    assert poisoned(monkeypatch, tmp_path, None)[1] == []


@pytest.mark.parametrize("error", [MemoryError("no hole"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")])
def test_memory_that_cannot_be_poisoned_is_told_and_the_work_goes_on(monkeypatch, tmp_path, error):
    def refuse(*args):
        raise error

    ((row,),) = [poisoned(monkeypatch, tmp_path, 64e9, refuse)[1]]
    assert row["status"] == "skipped: not poisoned"
    assert str(error) in row["exception"]


# ------------------------------------------------------------ peaks, records, the table


def test_the_seconds_of_a_session_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "session", lambda body: body())
    context = context_in(tmp_path)
    with pytest.raises(runner.Skipped, match="without a GPU"):
        list(speed.session(context))
    context.device = types.SimpleNamespace(platform="gpu")
    (row,) = speed.session(context)
    assert 0 < row["seconds"] < 60
    assert 0 < row["first_seconds"] < 60


def test_peaks_survive_a_restart(tmp_path):
    assert speed.peak_rates(context_in(tmp_path).log.rows) == {"copy": 3e12, "gemm_bf16": 8e14}


def test_rows_make_a_record(tmp_path, monkeypatch):
    rows = compared(tmp_path, monkeypatch, lambda y: y)
    device = {
        "kind": "device",
        "name": "device",
        "status": "ok",
        "platform": "gpu",
        "device_kind": "NVIDIA H100 80GB HBM3",
    }
    device |= {"compute_capability": "9.0", "driver": "580", "jax": jax.__version__, "date": "2026-01-01"}
    device |= {"code": digest.code(), "choice": digest.choice("NVIDIA H100 80GB HBM3")}
    timed = {"kind": "time", "name": "a/f", "status": "ok", "impl": "ours"} | rows["ours"] | {"source": "cupti"}
    timed = json.loads(log.dumps(timed))
    found = record.derived({"bench/results/h100/gpu.jsonl": [device, timed]})
    assert found.checks == {timed["facts"]["code_path"]: {timed["facts"]["epilogue"]: True}}
    (found_time,) = found.timings
    assert found_time.lax == formulations.STOCK
    ((product, config, num_sms),) = record.kernels({"a": [timed]})
    assert (product, num_sms) == (CASE.products()["f"], 132)
    assert str(config)


def timed(name, **by_impl):
    row = {"kind": "time", "name": name, "status": "ok", "tflops": 500.0, "gbps": 900.0, "fraction": 0.75}
    return [row | {"impl": impl, "ms": ms} | more for impl, (ms, more) in by_impl.items()]


def test_a_table_shows_ours_beside_stock():
    numbers = ["500.0", "900", "75.0%"]
    ours = {"ratio": 2.0, "ratio_best": 1.5}
    rows = timed("a/f", stock=(2.0, {}), ours=(1.0, ours))
    assert table.table(rows)[-1].split() == ["a/f", "2.0000", "-", "1.0000", "1.50", *numbers]
    rows = timed("a/f", stock=(2.0, {}), best=(1.5, {"ratio": 1.33}), ours=(1.0, ours))
    assert table.table(rows)[-1].split() == ["a/f", "2.0000", "1.5000", "1.0000", "1.50", *numbers]


def test_a_summary_of_many_rows_fits_with_the_table_first_and_failures_last():
    rows = [{"kind": "peak", "name": "copy", "status": "ok", "gbps": 3000.0}]
    rows += [{"kind": "spread", "name": "a/f", "status": "ok", "ratio": 1.25}]
    rows += timed("late/f", stock=(2.0, {}))
    for i in range(150):
        rows += timed(f"layer_{i}/f", stock=(2.0, {}), ours=(1.0, {"ratio_best": 2.0}))
    rows += [{"kind": "ladder", "name": f"rung_{i}", "status": "wrong", "detail": "x" * 900} for i in range(40)]
    rows += [{"kind": "time", "name": f"late_{i}", "status": runner.OUT_OF_TIME} for i in range(60)]
    assert len(rows) > 400
    text = table.text(rows)
    assert len(text) <= summary.LONGEST
    lines = text.splitlines()
    assert lines[0].startswith("case ")
    assert lines[1].startswith("layer_0/f")
    assert "more lines, in the file" in text
    assert [line for line in lines if "out of time" in line] == ["skipped      60 out of time"]
    assert "peak copy          3000 GB/s" in lines
    assert "stock compiled anew: times of 1 programs differ by up to 25.0%" in lines
    assert lines[-2].startswith("BAD  ladder rung_24: wrong xxx")
    assert lines[-1] == "BAD  and 15 more, in the file"


def test_a_training_step_without_better_programs_has_no_best():
    (case,) = (c for c in suite() if c.name == "resnet50_c2")
    assert products.best(case, "fb", H100) is None

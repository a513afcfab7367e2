"""Times of a product beside its rivals, with stand-ins for a GPU and its kernel: what is timed, and what is not."""

import json
import types

import jax
import jax.numpy as jnp
import pytest

from bench import products, record, runner, speed
from bench.correctness import MEDIUM, SMALL
from bench.runner import log, worker
from pallas_conv import formulations
from pallas_conv.kernels.family import Facts
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.serve import Kernel
from pallas_conv.target import resolve
from pallas_conv.verify import check, timing
from tests.bench.gpu_rows import H100, context_in
from workloads.cases import suite

CASE = SMALL[0]


def compared(folder, monkeypatch, kernel, case=CASE, direction="f", into=None, rows=()):
    """The rows of a case as if a Hopper were here and `kernel` made our result of the usual one."""
    monkeypatch.setattr(worker, "capability", lambda dry: (9, 0))
    run = lambda it, *operands, **how: [
        kernel(y) for y in products._without_kernels(resolve("cpu"), it.product, *operands)
    ]
    monkeypatch.setattr(Kernel, "run", run)
    found = [] if into is None else into
    step = speed.compare(case, direction, H100, Gpu.of(H100), dry=False)
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


def test_the_lax_program_beside_kernels_is_timed_where_it_is_another(tmp_path, monkeypatch):
    (case,) = (c for c in MEDIUM if c.name == "medium_3d")
    rows = compared(tmp_path, monkeypatch, lambda y: y, case, "w")
    ours, beside = rows["ours"], rows["beside"]
    assert set(rows) == {"stock", "beside", "ours"}
    assert (ours["lax"], ours["lax_us"]) == (formulations.STOCK, 1e3 * rows["stock"]["ms"])
    assert (ours["lax_beside"], ours["lax_beside_us"]) == ("depth_to_batch_wgrad", 1e3 * beside["ms"])
    assert ours["ratio_best"] == min(rows["stock"]["ms"], beside["ms"]) / ours["ms"]
    assert "lax_beside" not in compared(tmp_path, monkeypatch, lambda y: y)["ours"]


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
    facts = [Facts.from_json(it) for of_family in rows["ours"]["several_facts"].values() for it in of_family]
    assert rows["ours"]["code_paths"] == sorted({it.code_path for it in facts})
    assert rows["ours"]["several_facts"].keys() == {"dense", "wgrad"}
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
    assert told[0]["config"]["tile_pixels"]


# ------------------------------------------------------------ peaks, records


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
    device |= {"code": runner.device.code(), "choice": {"dense": "0" * 12}}
    timed = {"kind": "time", "name": "a/f", "status": "ok", "impl": "ours"} | rows["ours"] | {"source": "cupti"}
    timed = json.loads(log.dumps(timed))
    files = {"bench/results/h100/gpu.jsonl": [device, timed]}
    (found,) = record.derived(files)
    assert (found.family, found.choice) == ("dense", "0" * 12)
    assert found.checks == {timed["facts"]["code_path"]: {timed["facts"]["epilogue"]: True}}
    (found_time,) = found.timings
    assert found_time.lax == formulations.STOCK
    (kernel,) = record.kernels(found, files)
    assert (kernel.product, kernel.gpu) == (CASE.products()["f"], Gpu.of(H100))
    assert kernel.config.to_json() == timed["config"]


def test_a_training_step_without_better_programs_has_no_best():
    (case,) = (c for c in suite() if c.name == "resnet50_c2")
    assert products.best(case, "fb", H100) is None

"""The gate: a kernel that is wrong or fails is reported, and it starts on memory that is poisoned."""

import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import gate, gpu, products, runner
from pallas_conv.kernels.serve import Kernel
from pallas_conv.target import resolve
from pallas_conv.verify import check
from tests.bench.gpu_rows import context_in, rows_in
from workloads import ladder


def in_process(folder, *arguments):
    words = ["--dry-run", "--in-process", f"--out={folder}", f"--cache={folder / 'cache'}", "--minutes=2", *arguments]
    return runner.main(gpu.SCRIPT, words)


GATE = ("--only=correctness", "--problems=small_(odd_channels|65_taps)")


def test_a_wrong_kernel_is_found(tmp_path, monkeypatch):
    def nearly(kernel, *operands, **how):
        return [1.1 * y for y in products._without_kernels(resolve("cpu"), kernel.product, *operands)]

    monkeypatch.setattr(Kernel, "run", nearly)
    assert in_process(tmp_path, *GATE) == 1
    found = {r["name"]: r for r in rows_in(tmp_path) if r["kind"] == "correctness"}
    for direction, family in (("f", "dense"), ("d", "dense"), ("w", "wgrad")):
        row = found[f"small_odd_channels/{direction}"]
        assert (row["status"], row["family"]) == ("wrong", family)
        assert row["facts"]["code_path"]  # which a record files as wrong
        assert found[f"small_65_taps/{direction}"]["status"] == "unsupported"


def test_an_exception_costs_its_own_row_only(tmp_path, monkeypatch, capsys):
    def broken(*args, **how):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(Kernel, "run", broken)
    assert in_process(tmp_path, *GATE) == 1
    found = [r for r in rows_in(tmp_path) if r["kind"] == "correctness"]
    assert [r["status"] for r in found] == ["error"] * 3 + ["unsupported"] * 3
    assert found[0]["exception"] == "RuntimeError: no such kernel"
    assert "broken" in found[0]["traceback"]
    assert "BAD  correctness small_odd_channels/f: error RuntimeError: no such kernel" in capsys.readouterr().out


def test_to_check_no_kernel_is_no_success(tmp_path, capsys):
    assert in_process(tmp_path, "--only=correctness", "--problems=small_65_taps") == runner.INCOMPLETE
    assert "INCOMPLETE: no kernel was checked" in capsys.readouterr().out


def test_of_several_outputs_the_worst_is_told():
    (case,) = (c for c in ladder.CASES if c.name == "1x1, both outputs")
    operands = tuple(map(np.asarray, case.operands()))
    right = products._without_kernels(resolve("cpu"), case.product, *operands)
    assert check.hold_small(case.product, operands, right, right).right
    held = check.hold_small(case.product, operands, [right[0], right[1] + 1], right)
    assert not held.right
    assert held.worst.error > held.worst.bound


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


# ------------------------------------------------------------ poison


def poisoned(monkeypatch, folder, limit, fill=lambda count, *value: jnp.zeros(8)):
    device = types.SimpleNamespace(memory_stats=lambda: limit and {"bytes_limit": limit})
    monkeypatch.setattr(gate.jax, "devices", lambda: [device])
    monkeypatch.setattr(jnp, "full", fill)
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

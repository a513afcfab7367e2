"""`bench.loops` measures what it says, and reports no time of what is wrong."""

import dataclasses
import json

import jax
import jax.numpy as jnp

from bench import loops
from workloads.loops import laplacian

FEW = loops.LOOPS[-1]


def test_rows_are_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loops, "LOOPS", (FEW,))
    assert loops.main(["--out", str(tmp_path / "out" / "loops.json"), "--seconds", "0"]) == 0
    (row,) = json.loads((tmp_path / "out" / "loops.json").read_text())["loops"]
    assert (row["name"], row["status"], row["runs"]) == (FEW.name, "ok", loops.LEAST_RUNS)
    assert row["low"] <= row["ratio"] <= row["high"]


def test_what_disagrees_is_not_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(loops.pc, "convert", lambda model: laplacian(jax.random.key(0)))
    wrong = dataclasses.replace(FEW, build=lambda key: lambda x: jnp.zeros_like(x))
    assert set(loops.measure(wrong, 0.0)) == {"name", "difference", "status"}
    monkeypatch.setattr(loops, "LOOPS", (wrong,))
    assert loops.main(["--out", str(tmp_path / "loops.json")]) == 1

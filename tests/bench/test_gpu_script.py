"""The GPU script, without a GPU: a dry run takes every kind of step, in an order in which little is lost.

What happens to a kernel that hangs or crashes is the runner's: see test_runner.py.
"""

import functools
import itertools
import json
import os
import pickle
import subprocess
import sys

import jax
import pytest

from bench import gpu, products, runner
from bench.runner import programs
from compiled import aot
from pallas_conv.kernels import families
from tests.bench.gpu_rows import H100, ROOT, rows_in
from workloads import ladder, paths

ABSENT = ("tqdm", "inox", "platformdirs", "matplotlib", "optax")  # from the machine that has the GPU


def test_a_dry_run_takes_every_kind_of_step(tmp_path, tmp_path_factory):
    missing = tmp_path_factory.mktemp("missing")
    for name in ABSENT:
        (missing / f"{name}.py").write_text("raise ImportError('not installed there')")
    few = ("--minutes=4", "--cases=dcgan_t_last", "--problems=small_(odd|65)", "--rungs=^one tile$")
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
            "family",
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
    assert by["correctness", "small_65_taps/f", None]["reasons"]
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


# ------------------------------------------------------------ the order


@functools.cache
def steps_on_hopper():
    """Made once: every kernel of every step is planned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "resolve", lambda device: H100)
        return gpu.steps(runner.parse(gpu.SCRIPT, []))


def test_what_cannot_hang_comes_first_then_the_ladder_from_its_foot():
    steps = steps_on_hopper()
    names = [(s.kind, s.name) for s in steps]
    assert len(set(names)) == len(names)
    kinds = list(dict.fromkeys(s.kind for s in steps))
    assert kinds == ["peak", "stock", "probe", "ladder", "path", "correctness", "time", "spread"]
    hazardous = [any(p.kernel for p in s.programs) for s in steps]
    assert not any(hazardous[: names.index(("probe", gpu.probes.probes()[0].name))])
    assert [s.name for s in steps if s.kind == "ladder"] == [str(case) for case in ladder.CASES]
    in_turn = (
        names.index(("time", "resnet50_c2/d")),
        names.index(("time", "resnet50_c2/w")),
        names.index(("spread", "stock")),
    )
    assert list(in_turn) == sorted(in_turn)
    assert names.index(("spread", "stock")) < names.index(("time", "replknet_31/b"))  # which no kernel serves
    assert {f"{s.name}" for s in steps if s.kind == "stock"} == set(gpu.FIRST)


def test_a_family_is_proven_on_its_ladder_and_its_paths_before_the_next():
    family = {str(case): case.kernel.family.name for case in (*ladder.CASES, *paths.cases())}
    steps = [s for s in steps_on_hopper() if s.kind in ("ladder", "path")]
    turns = [turn for turn, _ in itertools.groupby((family[s.name], s.kind) for s in steps)]
    every = itertools.product([f.name for f in families.FAMILIES], ("ladder", "path"))
    # No wanted product is divided into blocks of taps, or has groups to be packed.
    assert turns == [turn for turn in every if turn not in (("tap_blocks", "path"), ("packed_groups", "path"))]
    assert len(steps) == len(ladder.CASES) + len(paths.cases())


def test_kernels_can_be_lowered_by_other_processes():
    wanted = {p for s in steps_on_hopper() for p in s.programs if p.kernel}
    assert all(p.portable for p in wanted if "/fb " not in p.name)
    assert len(pickle.dumps([p for p in wanted if p.portable])) > 0


def test_what_is_likely_lost_together_asks_one_question():
    steps = steps_on_hopper()
    asked = {s.name: s.programs[0].question for s in steps if s.kind == "probe"}
    assert asked["view_load_32B_1x64"] == asked["view_load_128B_1x64"] != asked["store_clips"]
    rungs = {s.name: s.programs[0].question for s in steps if s.kind == "ladder"}
    assert all(rungs[str(case)] == rung.feature for rung in ladder.LADDER for case in rung.cases)


def test_what_is_beside_a_kernel_is_measured_if_that_is_lost():
    assert all(s.again == (s.kind == "time") for s in steps_on_hopper())


@pytest.mark.parametrize("word", ["--cases", "--problems", "--rungs"])
def test_what_is_no_regular_expression_is_refused_before_a_worker_starts(word, capsys):
    with pytest.raises(SystemExit):
        runner.parse(gpu.SCRIPT, [f"{word}=[a"])
    assert f"argument {word}: '[a' cannot be used" in capsys.readouterr().err


@pytest.mark.aot
def test_what_another_process_lowered_compiles_for_hopper(tmp_path):
    case = ladder.CASES[0]
    program = products.kernel("a", case.kernel)
    lowered = programs.lower(program.make(), "cuda")
    exported, about = pickle.loads(lowered)
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in exported.in_avals]
    assert "mosaic_gpu" in aot.compile_for("h100", exported.call, *shapes).as_text()
    assert about["code_path"] == about["facts"]["code_path"]
    json.dumps(about)

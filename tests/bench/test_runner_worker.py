"""A worker of the runner: exceptions, a lost device, and which kernels are not run any more."""

import dataclasses
import functools
import json
import sys
import types

import pytest

from bench.runner import log, watch, worker
from bench.runner.script import Script, Step
from pallas_conv.verify import check
from tests.bench import stand_in
from tests.bench.runs import parse


def in_process(folder, monkeypatch, *steps, rows=()):
    options = parse(folder, "--in-process")
    options.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = Script("stand_in", "", lambda options: list(steps), lambda rows: "")
    return worker.run(script, options), log.read(options.file)[len(rows) + 1 :]  # without the device


def test_an_exception_costs_its_own_row_only(tmp_path, monkeypatch):
    def fails(context):
        raise RuntimeError("no such kernel")

    status, rows = in_process(
        tmp_path, monkeypatch, Step("probe", "a", fails), Step("probe", "b", lambda context: [{}])
    )
    assert status == worker.FOUND_BAD
    assert [r["status"] for r in rows] == ["error", "ok"]
    assert rows[0]["exception"] == "RuntimeError: no such kernel"
    assert "in fails" in rows[0]["traceback"]


def test_a_worker_stops_when_its_device_is_lost(tmp_path, monkeypatch):
    def fails(context):
        stand_in.launch(context, program)
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    monkeypatch.setattr(check, "lost", lambda: RuntimeError("lost"))
    program = stand_in.kernel("a", "path")
    status, rows = in_process(tmp_path, monkeypatch, Step("probe", "a", fails, (program,)), Step("probe", "b", fails))
    assert status == worker.LOST
    assert [(r["kind"], r["name"], r["status"]) for r in rows[1:]] == [
        ("probe", "a", "error"),
        ("run", "device lost", "crashed"),
    ]
    assert rows[-1]["code_path"] == "path"  # which counts as one of the three


def test_what_fails_before_or_after_a_launch_is_not_the_kernels_fault(tmp_path, monkeypatch):
    def before(context):
        raise RuntimeError("no memory for operands")

    def after(context):
        stand_in.launch(context, program)
        context.alive()
        raise RuntimeError("no memory for float64")

    program = stand_in.kernel("a", "path")
    work = [Step("probe", f.__name__, f, (program,)) for f in (before, after)]
    _, rows = in_process(tmp_path, monkeypatch, *work)
    found = [r for r in rows if r["kind"] == "probe"]
    assert [r["status"] for r in found] == ["error", "error"]
    assert not any({"kernel", "code_path"} & r.keys() for r in found)
    assert all(isinstance(r["seed"], int) for r in found)


def test_what_the_watching_process_hears_of_a_launch_ends_with_it(tmp_path, monkeypatch, capfd):
    parse_as = parse
    monkeypatch.setattr(sys.modules[__name__], "parse", lambda *words: parse_as(*words, "--worker=0"))

    def work(context):
        stand_in.launch(context, program)
        context.alive()
        yield {}

    program = stand_in.kernel("a", "path")
    in_process(tmp_path, monkeypatch, Step("probe", "a", work, (program,)))
    heard = [watch.told(line) for line in capfd.readouterr().out.splitlines()]
    step = next(i for i, (word, what) in enumerate(heard) if word == worker.BEGIN and what["kind"] == "probe")
    assert set(heard[step][1]["launch"]) == {"seed"}
    assert [what.get("code_path") for word, what in heard[step:] if word == worker.ALIVE] == ["path", None]


def lost_rows(*abouts):
    return [{"kind": "x", "name": str(i), "status": "hung", "kernel": True} | it for i, it in enumerate(abouts)]


@pytest.mark.parametrize(
    ("abouts", "runs"),
    [
        ([{"question": q} for q in ("view", "store", "oob")], True),  # probes say nothing against kernels
        ([{"code_path": "b"}] * 3, True),
        ([{"code_path": p, "question": "halo"} for p in "bcd"], True),
        ([{"code_paths": ["b", "c", "d"]}], True),
        ([{"code_path": p} for p in "bcd"], False),
    ],
)
def test_losses_of_three_causes_end_all_kernels(tmp_path, monkeypatch, abouts, runs):
    program = stand_in.kernel("right", "a")
    step = Step("correctness", "right", functools.partial(stand_in.right, program=program), (program,))
    _, rows = in_process(tmp_path, monkeypatch, step, rows=lost_rows(*abouts))
    assert rows[-1]["status"] == ("ok" if runs else "skipped: 3 kernels hung or crashed before")


def test_losses_of_one_question_end_it(tmp_path, monkeypatch):
    asked = [dataclasses.replace(stand_in.kernel(name, name), question=name) for name in ("view", "store")]
    steps = [Step("probe", p.name, functools.partial(stand_in.right, program=p), (p,)) for p in asked]
    _, rows = in_process(tmp_path, monkeypatch, *steps, rows=lost_rows(*[{"question": "view"}] * 3))
    status = {r["name"]: r["status"] for r in rows if r["kind"] == "probe"}
    assert status == {"view": "skipped: 3 kernels of the same question hung or crashed before: view", "store": "ok"}


def test_a_lost_kernel_says_its_question(tmp_path, monkeypatch):
    def fails(context):
        stand_in.launch(context, program)
        raise RuntimeError("no answer")

    program = dataclasses.replace(stand_in.kernel("a", "path"), question="view")
    _, rows = in_process(tmp_path, monkeypatch, Step("probe", "a", fails, (program,)))
    assert rows[-1]["question"] == "view"


def test_what_was_lost_before_a_restart_is_not_run_again(tmp_path, monkeypatch):
    before = [{"kind": "correctness", "name": "x", "status": "crashed", "kernel": True, "code_path": "a"}]
    steps = [s for s in stand_in.steps(types.SimpleNamespace(most=100)) if s.name in ("right", "never_run")]
    _, rows = in_process(tmp_path, monkeypatch, *steps, rows=before)
    status = {r["name"]: r["status"] for r in rows if r["kind"] == "correctness"}
    assert status["right"].startswith("skipped: a kernel of the same code path")
    assert status["never_run"] == "ok"

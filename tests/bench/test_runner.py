"""The runner: what a kernel costs that hangs, that crashes, that is wrong; what is skipped; what rows say. By stand-ins."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import pytest

from bench.runner import command, log, programs, summary, watch, worker
from bench.runner.script import OUT_OF_TIME, Limits, Program, Script, Step
from pallas_conv.verify import check
from tests.bench import stand_in

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMITS = {"step": 2, "least": 5, "retry": 0.1}


def rows_in(folder):
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(folder, *arguments):
    """The stand-in as it is run on a GPU: workers, processes that lower, a watching process."""
    words = [
        "--dry-run",
        f"--out={folder}",
        f"--cache={folder / 'cache'}",
        f"--limits={json.dumps(LIMITS)}",
        *arguments,
    ]
    return subprocess.run(
        [sys.executable, "-m", "tests.bench.stand_in", *words],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    done = run(folder, "--processes=1", "--minutes=3")
    rows = rows_in(folder)
    return types.SimpleNamespace(
        done=done, folder=folder, rows=rows, by={(r["kind"], r["name"], r.get("impl")): r for r in rows}
    )


def test_each_fault_costs_its_own_row(faulty):
    status = {r["name"]: r["status"] for r in faulty.rows if r["kind"] == "correctness" and "impl" not in r}
    assert faulty.done.returncode == 1, faulty.done.stdout + faulty.done.stderr
    assert [status[name] for name in ("right", "hangs", "crashes", "wrong", "still_right", "hangs_beside")] == [
        "ok", "hung", "crashed", "wrong", "ok", "hung",
    ]  # fmt: skip
    assert faulty.rows[-1]["name"] == "last"
    assert faulty.rows[-1]["status"] == "ok"


def test_a_row_of_a_kernel_that_hung_says_which_it_was_and_where(faulty):
    row = faulty.by["correctness", "hangs", None]
    assert row["config"] == {"of": "hangs"}
    assert row["code_path"] == "b"
    assert isinstance(row["seed"], int)
    assert "in hangs" in row["tail"]  # the Python stack
    crashed = faulty.by["correctness", "crashes", None]
    assert (crashed["code_path"], crashed["exception"]) == ("c", "exit status -6")
    assert "in crashes" in crashed["tail"]


def test_after_a_hang_its_code_path_is_skipped(faulty):
    status = faulty.by["correctness", "same_path", None]["status"]
    assert status == "skipped: a kernel of the same code path hung or crashed before: b"


def test_after_three_no_kernel_is_run_but_everything_else_is(faulty):
    why = "skipped: 3 kernels hung or crashed before"
    assert faulty.by["correctness", "never_run", None]["status"] == why
    assert faulty.by["time", "beside", "ours"]["status"] == why
    assert faulty.by["time", "beside", "stock"]["status"] == "ok"


def test_what_was_to_be_timed_beside_a_kernel_that_hung_is_timed_without_it(faulty):
    rows = [(r.get("impl"), r["status"]) for r in faulty.rows if r["name"] == "hangs_beside"]
    assert rows == [(None, "hung"), ("ours", "skipped: 3 kernels hung or crashed before"), ("stock", "ok")]


def test_a_step_that_gives_signs_of_life_may_take_its_time(faulty):
    assert faulty.by["peak", "patient", None]["status"] == "ok"


def test_programs_are_compiled_ahead_and_lowered_elsewhere(faulty):
    compiled = [r for r in faulty.rows if r["kind"] == "compile"]
    assert compiled[0]["name"] == "8_from_correctness_right"
    assert compiled[0]["programs"] == 8
    assert len(list((faulty.folder / "cache").glob("*/*.lowered"))) == 9


def test_the_summary_and_the_file_come_last(faulty):
    *_, summary, empty, file = faulty.done.stdout.splitlines()
    assert (summary, empty) == (f"{len(faulty.rows)} rows", "")
    assert file.startswith("results: ")


def test_a_run_without_faults_is_a_success_and_tells_the_commit(tmp_path):
    done = run(tmp_path, "--most=2", "--only=peak", "--commit=abc", "--minutes=1")
    assert done.returncode == 0, done.stdout + done.stderr
    device = rows_in(tmp_path)[1]
    assert device["commit"] == "abc"
    assert device["versions"]["jax"] == device["jax"] == jax.__version__
    assert {"code", "choice", "driver", "compute_capability"} <= device.keys()
    assert device["driver"]  # "unknown" where nothing tells


# ------------------------------------------------------------ parts of it


def parse(folder, *arguments, script=stand_in.SCRIPT):
    return command.parse(script, ["--dry-run", f"--out={folder}", f"--cache={folder / 'cache'}", *arguments])


def test_workers_get_every_argument(tmp_path):
    options = parse(tmp_path, "--most=3", "--only=peak", '--limits={"step": 7}')
    again = command.parse(stand_in.SCRIPT, options.arguments)
    assert vars(again) == vars(options)
    assert again.limits == Limits(step=7)


def test_what_does_not_fit_is_said_to_be_skipped(tmp_path, capsys):
    words = ["--dry-run", "--in-process", "--minutes=0", f"--out={tmp_path}", f"--cache={tmp_path / 'cache'}"]
    assert command.main(stand_in.SCRIPT, words) == command.INCOMPLETE
    rows = rows_in(tmp_path)[1:]
    assert {r["status"] for r in rows} == {OUT_OF_TIME}
    assert f"INCOMPLETE: no time for {len(rows)} steps" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(capsys):
    assert command.main(stand_in.SCRIPT, ["--in-process"]) == worker.NO_GPU
    assert "no GPU" in capsys.readouterr().err


def watched(folder, monkeypatch, code, *arguments):
    """The exit status and rows where workers run `code`, their first step in sys.argv[1]."""
    monkeypatch.setattr(watch, "command", lambda script, options, first: [
        sys.executable, "-c", code, str(first), *options.arguments
    ])  # fmt: skip
    options = parse(folder, f"--limits={json.dumps(LIMITS)}", *arguments)
    return watch.watch(stand_in.SCRIPT, options), log.read(options.file)


def test_a_worker_that_never_starts_is_tried_three_times(tmp_path, monkeypatch):
    status, rows = watched(tmp_path, monkeypatch, "print('no memory'); raise SystemExit(5)")
    assert status == 1
    assert [r["exception"] for r in rows] == ["exit status 5 before the first step"] * 3
    assert rows[0]["tail"] == "no memory\n"


COMPILER = """
import json, os, sys
first, alone = int(sys.argv[1]), "--one-by-one" in sys.argv
def begin(i, kind, name, **about):
    told = json.dumps({"index": i, "kind": kind, "name": name, "limit": 9, "launch": {}} | about)
    print("some text @begin", told, flush=True)
    print('@begin {"index": 7, "laE0101 a warning of XLA {x}', flush=True)
for i in range(first, 3):
    if not alone and i == 1:
        begin(i, "compile", "2", alone=False)
        os._exit(9)
    begin(i, "probe", "abc"[i])
    print("took", i, flush=True)
"""


def test_after_a_compilation_that_dies_programs_are_compiled_one_by_one(tmp_path, monkeypatch, capsys):
    status, rows = watched(tmp_path, monkeypatch, COMPILER)
    assert status == 1
    assert [(r["kind"], r["name"], r["status"]) for r in rows] == [("compile", "2", "crashed")]
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("took")] == ["took 0", "took 1", "took 2"]
    assert "some text" not in " ".join(shown)
    assert (
        shown.count('@begin {"index": 7, "laE0101 a warning of XLA {x}') == 4
    )  # a garbled line is output like any other


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


def test_the_watching_process_forgets_a_launch_that_is_over(tmp_path):
    code = """
import time
print('@begin {"index": 3, "kind": "probe", "name": "a", "limit": 1, "launch": {}}', flush=True)
print('@alive {"seed": 1, "code_path": "path"}', flush=True)
print('@alive {"seed": 1}', flush=True)
time.sleep(60)
"""
    end = watch.follow([sys.executable, "-c", code], dict(os.environ), parse(tmp_path))
    assert end.row["status"] == "hung"
    assert end.begun["launch"] == {"seed": 1}


@pytest.mark.parametrize(("launch", "status"), [("{}", "skipped: out of time"), ('{"kernel": true}', "hung")])
def test_a_step_that_the_end_of_the_run_cuts_off_hung_only_if_a_kernel_ran(tmp_path, launch, status):
    code = f"""
import time
print('@begin {{"index": 3, "kind": "network", "name": "a", "limit": 60, "launch": {launch}}}', flush=True)
time.sleep(60)
"""
    options = parse(tmp_path, "--minutes=0")
    options.limits = dataclasses.replace(options.limits, grace=0, least=1)
    end = watch.follow([sys.executable, "-c", code], dict(os.environ), options)
    assert end.row["status"] == status


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


def test_the_cpu_is_there_beside_a_gpu_that_is_named_alone(tmp_path, monkeypatch):
    seen, before = [], jax.config.jax_platforms
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(worker, "run", lambda *_: seen.append(jax.config.jax_platforms) or 0)
    try:
        for named in ("cuda", "cuda,cpu", None):
            jax.config.update("jax_platforms", named)
            command.main(stand_in.SCRIPT, ["--in-process", f"--out={tmp_path}", f"--cache={tmp_path / 'cache'}"])
    finally:
        jax.config.update("jax_platforms", before)
    assert seen == ["cuda,cpu", "cuda,cpu", None]


def test_an_argument_that_does_not_do_is_told_before_a_worker_starts(tmp_path, capsys):
    def arguments(parser):
        parser.add_argument("--cases", type=command.checked(re.compile), default="")

    script = Script("stand_in", "", lambda options: [], lambda rows: "", arguments)
    assert parse(tmp_path, "--cases=a|b", script=script).cases == "a|b"
    with pytest.raises(SystemExit):
        parse(tmp_path, "--cases=a(", script=script)
    assert "argument --cases: 'a(' cannot be used: missing )" in capsys.readouterr().err


def test_what_was_lost_before_a_restart_is_not_run_again(tmp_path, monkeypatch):
    before = [{"kind": "correctness", "name": "x", "status": "crashed", "kernel": True, "code_path": "a"}]
    steps = [s for s in stand_in.steps(types.SimpleNamespace(most=100)) if s.name in ("right", "never_run")]
    _, rows = in_process(tmp_path, monkeypatch, *steps, rows=before)
    status = {r["name"]: r["status"] for r in rows if r["kind"] == "correctness"}
    assert status["right"].startswith("skipped: a kernel of the same code path")
    assert status["never_run"] == "ok"


def test_a_program_that_cannot_be_compiled_is_told_by_the_step_that_needs_it(tmp_path):
    def broken():
        raise ValueError("no tile")

    compiler = programs.Compiler(0, tmp_path, "cpu")
    bad, good = Program("bad", broken), stand_in.kernel("good", "a")
    assert compiler.build([bad, good]) == 2
    assert float(compiler.get(good).call(jax.numpy.ones(4))[0]) == 2
    with pytest.raises(ValueError, match="no tile"):
        compiler.get(bad)
    compiler.keep([bad])
    assert not compiler.has(good)


def test_nothing_is_compiled_after_its_time(tmp_path):
    compiler = programs.Compiler(0, tmp_path, "cpu")
    assert compiler.build([stand_in.kernel("good", "a")], until=0) == 0


def test_a_program_lowered_elsewhere_is_the_same(tmp_path):
    compiler = programs.Compiler(0, tmp_path, "cpu")
    program = Program("p", lambda: pytest.fail("lowered again"))
    compiler._file(program).write_bytes(programs.lower(stand_in.source("path", {}), "cpu"))
    built = compiler.get(program)
    assert [float(v) for v in built.call(jax.numpy.arange(4.0))] == [0, 2, 4, 6]
    assert built.about == {"code_path": "path", "config": {}}


def test_options_reach_the_compiler(tmp_path):
    options = {"xla_no_such_option": True}
    program = Program("p", lambda: stand_in.source("path", {}), options=options)
    with pytest.raises(Exception, match="xla_no_such_option"):
        programs.Compiler(0, tmp_path, "cpu").get(program)


def test_a_row_is_json_whatever_is_in_it(tmp_path):
    appended = log.Log(tmp_path / "rows.jsonl", 0.0)
    appended("correctness", "a/f", {"status": "wrong", "error": float("nan"), "longest": [("k", float("inf"))]})
    refuse = lambda name: pytest.fail(f"{name} is no JSON")
    (row,) = (json.loads(line, parse_constant=refuse) for line in appended.path.read_text().splitlines())
    assert (row["error"], row["longest"]) == ("nan", [["k", "inf"]])


def test_half_a_row_is_left_out(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"kind": "probe", "name": "a"}\n{"kind": "probe", "na')
    assert log.read(file) == [{"kind": "probe", "name": "a"}]


def test_a_row_after_half_a_row_is_on_a_line_of_its_own(tmp_path):
    file = tmp_path / "rows.jsonl"
    appended = log.Log(file, 0.0)  # by the watching process, before a worker writes
    appended("run", "a", {})
    with file.open("a") as worker_file:
        worker_file.write('{"kind": "probe", "na')
    appended("run", "b", {})
    assert [row["name"] for row in log.read(file)] == ["a", "b"]


def test_of_a_long_summary_the_middle_is_cut(tmp_path, capsys):
    script = Script("stand_in", "", lambda options: [], lambda rows: "first\n" + "x\n" * 20_000 + "last")
    command.main(script, ["--dry-run", "--in-process", f"--out={tmp_path}", f"--cache={tmp_path / 'cache'}"])
    (_, shown), _ = capsys.readouterr().out.split("first"), None
    assert len(shown.partition("\nresults")[0]) <= summary.LONGEST
    assert "\nlast\n" in shown


DEVICE = {
    "kind": "device",
    "name": "device",
    "status": "ok",
    "device_kind": "H100",
    "platform": "gpu",
    "jax": "1",
    "driver": "2",
}
DEVICE |= {"code": "c", "choice": "d", "commit": "e"}


def test_what_every_summary_ends_with():
    late = [{"kind": "time", "name": str(i), "status": OUT_OF_TIME} for i in range(100)]
    banned = [{"kind": "probe", "name": "b", "status": "skipped: 3 kernels hung or crashed before"}] * 7
    wrong = [{"kind": "probe", "name": f"p{i}", "status": "wrong", "detail": "3 of 4"} for i in range(50)]
    lines = summary.ending([DEVICE, *late, *banned, *wrong])
    assert lines[0].startswith("H100, JAX 1")
    assert [line for line in lines if line.startswith("skipped")] == [
        "skipped      100 out of time, 7 3 kernels hung or crashed before"
    ]
    assert lines[-2:] == ["BAD  probe p24: wrong 3 of 4", "BAD  and 25 more, in the file"]
    assert summary.ending([DEVICE | {"platform": "cpu"}])[0].startswith("NOT A GPU")

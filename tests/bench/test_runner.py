"""The runner: what a kernel costs that hangs, that crashes, that is wrong; its arguments and its summary. By stand-ins."""

import json
import os
import re
import subprocess
import sys
import types

import jax
import pytest

from bench.runner import command, summary, worker
from bench.runner.script import OUT_OF_TIME, Limits, Script
from tests.bench import stand_in
from tests.bench.runs import LIMITS, ROOT, parse, rows_in


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

"""The watching process of the runner: workers that never start, that die, that are cut off."""

import dataclasses
import json
import os
import sys

import pytest

from bench.runner import log, watch
from tests.bench import stand_in
from tests.bench.runs import LIMITS, parse


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

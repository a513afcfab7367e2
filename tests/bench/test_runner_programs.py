"""Programs of the runner as they are compiled, and rows as they are written."""

import json

import jax
import pytest

from bench.runner import log, programs
from bench.runner.script import Program
from tests.bench import stand_in


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

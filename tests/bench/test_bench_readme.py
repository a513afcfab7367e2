"""Every command line that bench/README.md tells a reader to type is one that the scripts take."""

import argparse
import importlib.util
import pathlib
import re
import runpy
import shlex
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "bench" / "README.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
FILES = re.compile(r"(?:tests|docs|bench/results)/\S+")


class Parsed(Exception):
    """The arguments were right."""


def words(line):
    """The words of a command, without what sets the environment and without the profiler before the program."""
    found = shlex.split(line)
    start = next((i for i, word in enumerate(found) if word in ("python", "python3")), 0)
    return found[start:]


PYTHON = [line for line in LINES if words(line)[0].startswith("python")]


@pytest.mark.parametrize("line", [line for line in PYTHON if "pytest" not in line])
def test_a_command_line_is_parsed(monkeypatch, line):
    parse = argparse.ArgumentParser.parse_args

    def stops(self, *given, **how):
        parse(self, *given, **how)
        raise Parsed

    _, option, module, *arguments = words(line)
    assert option == "-m"
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stops)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    for name in (module, f"{module}.__main__"):  # which another test may have imported
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(Parsed):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def test_kinds_of_steps_are_those_of_the_script():
    from bench import gpu, runner

    for line in PYTHON:
        if "bench.gpu " in line and (only := re.search(r"--only=(\S+)", line)):
            options = runner.parse(gpu.SCRIPT, ["--dry-run"])
            assert set(only[1].split(",")) <= {step.kind for step in gpu.steps(options)}


def test_what_is_not_python_is_known():
    others = {line.split()[0] for line in LINES if line not in PYTHON}
    assert others <= {"mkdir", "cp", "make"}


@pytest.mark.parametrize("line", [line for line in PYTHON if "pytest" in line])
def test_tests_that_are_named_exist(line):
    for name in FILES.findall(line):
        assert (ROOT / name).exists(), name


def test_scripts_that_are_named_exist():
    for module in set(re.findall(r"\bbench\.[a-z_]+", README)):
        assert importlib.util.find_spec(module), module


def test_every_call_fits_and_all_fit_into_half_an_hour():
    """Minutes that scripts are given, with a start of one and a half before each call, and a minute for three profiles."""
    calls = re.findall(r"### Call \d.*?\n```sh\n(.*?)```", README, re.DOTALL)
    assert len(calls) == 4
    minutes = [sum(map(float, re.findall(r"--minutes (\S+)", call))) + 0.4 * call.count("ncu ") for call in calls]
    assert max(minutes) < 10
    assert sum(minutes) + 4 * 1.5 <= 30

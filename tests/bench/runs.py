"""Arguments and rows of the runner's tests."""

import json
import pathlib

from bench.runner import command
from tests.bench import stand_in

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMITS = {"step": 2, "least": 5, "retry": 0.1}


def rows_in(folder):
    (file,) = folder.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def parse(folder, *arguments, script=stand_in.SCRIPT):
    return command.parse(script, ["--dry-run", f"--out={folder}", f"--cache={folder / 'cache'}", *arguments])

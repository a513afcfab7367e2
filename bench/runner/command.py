"""The command line of every script over the runner, and what it does."""

import argparse
import datetime
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable

from . import worker
from .device import ROOT
from .log import Log, read
from .programs import CORES
from .script import OUT_OF_TIME, Limits, Row, Script
from .summary import shortened
from .watch import watch

INCOMPLETE = 3  # exit status
INTERPRETED = {"step": 120}  # limits of a dry run: an interpreted kernel takes seconds


def main(script: Script, arguments: list[str] | None = None) -> int:
    """Run a script: 1 if anything was wrong, failed, hung or crashed, 2 without a GPU, INCOMPLETE; else 0."""
    options = parse(script, arguments)
    if options.worker is not None or options.in_process:
        import jax

        jax.config.update("jax_platforms", _platforms(jax.config.jax_platforms, options.dry_run))
        if not options.dry_run and jax.default_backend() != "gpu":
            print(f"{script.module}: JAX sees no GPU here; --dry-run takes the same steps on the CPU", file=sys.stderr)
            return worker.NO_GPU
    if options.worker is not None:
        return worker.main(script, options)
    options.out.mkdir(parents=True, exist_ok=True)
    Log(options.file, options.started)("run", "arguments", {"arguments": options.arguments})
    status = (1 if worker.run(script, options) else 0) if options.in_process else watch(script, options)
    rows = read(options.file)
    missing = incomplete(script, rows)
    print(f"\n{shortened(script.summary(rows))}\n\nresults: {options.file}")
    if missing:
        print(f"INCOMPLETE: {missing}")
    return status or (INCOMPLETE if missing else 0)


def _platforms(wanted: str | None, dry: bool) -> str | None:
    """JAX's platforms. The CPU is always among them: some programs are for it even if JAX_PLATFORMS names a GPU alone."""
    if dry:
        return "cpu"
    return f"{wanted},cpu" if wanted and "cpu" not in wanted.split(",") else wanted


def incomplete(script: Script, rows: list[Row]) -> str:
    """The reasons why a run is incomplete, or ""."""
    late = sum(r["status"] == OUT_OF_TIME for r in rows)
    return "; ".join(filter(None, [f"no time for {late} steps" if late else "", script.incomplete(rows)]))


def parse(script: Script, arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of a run; `arguments` of them are those that its workers are started with."""
    parser = argparse.ArgumentParser(prog=f"python -m {script.module}", description=script.doc.partition("\n")[0])
    script.arguments(parser)
    own = [a.dest for a in parser._actions if a.dest != "help"]
    _add_common(parser, script)
    options = parser.parse_args(arguments)
    options.out, options.cache = pathlib.Path(options.out).resolve(), pathlib.Path(options.cache).resolve()
    options.limits = Limits(**((INTERPRETED if options.dry_run else {}) | options.limits))
    if options.processes is None:
        options.processes = 0 if options.dry_run or options.in_process else max(1, CORES - 2)
    if options.file is None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        options.file = options.out / f"{script.name}-{now}{'-dry-run' * options.dry_run}.jsonl"
    options.arguments = _handed_on(options, own)
    return options


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """The type of an argument that `check` accepts. What it raises is told before a worker is started."""

    def text(value: str) -> str:
        try:
            check(value)
        except (ValueError, OSError, re.error) as error:
            raise argparse.ArgumentTypeError(f"{value!r} cannot be used: {error}") from error
        return value

    return text


COMMON = ("minutes", "out", "only", "commit", "cache", "processes", "file", "started", "dry_run", "one_by_one")


def _handed_on(options: argparse.Namespace, own: list[str]) -> list[str]:
    given = {name: getattr(options, name) for name in (*own, *COMMON)}
    flags = {
        "--" + name.replace("_", "-"): value
        for name, value in given.items()
        if value is not None and value is not False
    }
    words = [flag if value is True else f"{flag}={value}" for flag, value in flags.items()]
    return [*words, f"--limits={json.dumps(vars(options.limits))}"]


def _add_common(parser: argparse.ArgumentParser, script: Script) -> None:
    add = parser.add_argument
    add("--minutes", type=float, default=script.minutes, help="start nothing after these (%(default)s)")
    out = os.environ.get("OUT") or ROOT / "bench" / "results"
    add("--out", type=pathlib.Path, default=out, help="folder of the results ($OUT, else bench/results)")
    add("--only", default="", help="kinds of steps, comma-separated (all)")
    add("--commit", help="of the source, where git is not there to tell")
    add("--dry-run", action="store_true", help="the same steps on the CPU, small")
    add("--in-process", action="store_true", help="do the work in this process, with nobody watching")
    add("--one-by-one", action="store_true", help="compile each program when its turn comes, none ahead")
    add("--processes", type=int, help="that lower kernels in the background (all cores but two; none in a dry run)")
    cache = pathlib.Path(tempfile.gettempdir()) / "pallas_conv_bench"
    add("--cache", type=pathlib.Path, default=cache, help="folder of compiled programs (%(default)s)")
    add("--limits", type=json.loads, default={}, help=argparse.SUPPRESS)  # JSON of Limits
    add("--worker", type=int, help=argparse.SUPPRESS)
    add("--file", type=pathlib.Path, help=argparse.SUPPRESS)
    add("--started", type=float, default=time.time(), help=argparse.SUPPRESS)

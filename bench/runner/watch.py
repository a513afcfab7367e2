"""The process that watches: starts workers, and goes on with a new one where one hung or died."""

import argparse
import contextlib
import dataclasses
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

from .device import ROOT
from .log import Log
from .script import OUT_OF_TIME, Row, Script
from .worker import ALIVE, BEGIN, FOUND_BAD, LOST, NO_GPU

TOLD = re.compile(rf"({BEGIN}|{ALIVE}) (\{{.*\}})$")  # behind what another library may have left on the line
STARTS = 3  # Attempts to start a worker before giving up.
LAST_LINES = 25  # of a worker that died, in its row
DUMP_SECONDS = 1  # for the Python stacks of a worker that hangs

# A worker allocates as it goes, so that the next one finds memory while the driver tidies up; and finds its programs compiled.
ENVIRONMENT = {"NPROC": "16", "PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


@dataclasses.dataclass
class End:
    """The end of a worker.

    begun   the step it was at: index, kind, name, and what was launched; None before the first
    status  its exit status; None: it was killed
    after   seconds without a sign of life
    cut     it was killed because the run was over: it might have gone on
    tail    the last lines it wrote
    """

    begun: dict[str, Any] | None
    status: int | None
    after: float
    tail: str
    cut: bool = False

    @property
    def row(self) -> Row:
        ran_a_kernel = self.begun and self.begun["launch"].get("kernel")  # for microseconds, unless it hangs
        if self.cut and self.begun and not ran_a_kernel:
            return {"status": OUT_OF_TIME}
        if self.status is None:
            row = {"status": "hung", "exception": f"no sign of life for {self.after:.0f} s: killed"}
        else:
            row = {"status": "crashed", "exception": f"exit status {self.status}"}
        return row | {"tail": self.tail[-3000:]}


def watch(script: Script, options: argparse.Namespace) -> int:
    """Run workers until every step is taken, a new one after each that hung or died; 0, 1 or NO_GPU."""
    log, first, bad, starts = Log(options.file, options.started), 0, 0, 0
    while True:
        end = follow(command(script, options, first), environment(options), options)
        if end.status == NO_GPU:
            log("run", "worker", {"status": "error", "exception": "no GPU"})
            return NO_GPU
        if end.status in (0, FOUND_BAD):
            return 1 if bad or end.status else 0
        if end.begun is None:
            starts += 1
            log("run", "worker", end.row | {"exception": f"{end.row['exception']} before the first step"})
            if starts == STARTS:
                return 1
            time.sleep(options.limits.retry)
            continue
        bad, starts = bad or int(end.row["status"] != OUT_OF_TIME), 0
        first = _next(log, end, options)


def _next(log: Log, end: End, options: argparse.Namespace) -> int:
    """Log the death of a worker; the step to go on with."""
    assert end.begun
    if end.status != LOST:  # else it has said so
        log(end.begun["kind"], end.begun["name"], end.begun["launch"] | end.row)
    if end.begun["kind"] == "compile" and not end.begun["alone"]:  # alone, programs say which of them it was
        options.arguments.append("--one-by-one")
        return end.begun["index"]
    return end.begun["index"] + (0 if end.begun.get("again") and end.begun["launch"].get("kernel") else 1)


def command(script: Script, options: argparse.Namespace, first: int) -> list[str]:
    return [sys.executable, "-m", script.module, "--worker", str(first), *options.arguments]


def environment(options: argparse.Namespace) -> dict[str, str]:
    cache = {} if options.dry_run else CACHE | {"JAX_COMPILATION_CACHE_DIR": str(options.cache / "jax")}
    return ENVIRONMENT | cache | os.environ


def follow(command: list[str], env: dict[str, str], options: argparse.Namespace) -> End:
    """Run a worker to its end, or kill it, and the processes that it started, where it hangs."""
    limits = options.limits
    end = time.monotonic() + (options.started - time.time()) + 60 * options.minutes + limits.grace
    worker = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    lines: queue.Queue[str | None] = queue.Queue()
    for task in (lambda: _read(worker.stdout, lines), lambda: _bury(worker)):
        threading.Thread(target=task, daemon=True).start()
    tail: deque[str] = deque(maxlen=LAST_LINES)
    begun, allowed, heard = None, limits.start, time.monotonic()
    try:
        while True:
            until = heard + min(allowed, max(limits.least, end - heard))
            line = lines.get(timeout=max(0.01, until - time.monotonic()))
            if line is None:
                return End(begun, worker.wait(), time.monotonic() - heard, "".join(tail))
            heard = time.monotonic()
            word, what = told(line)
            if word == BEGIN:
                begun, allowed = what, what["limit"]
                tail.clear()
            elif word == ALIVE and begun is not None:
                begun["launch"] = what
            elif not word:
                print(line, end="", flush=True)
                tail.append(line)
    except queue.Empty:
        tail.extend(_stacks(worker, lines))
        after = time.monotonic() - heard
        return End(begun, None, after, "".join(tail), cut=after < allowed)
    finally:
        _kill(worker)


def told(line: str) -> tuple[str, dict[str, Any]]:
    """The word and what it says; "" of a line that is not for this process, or that another library wrote into."""
    with contextlib.suppress(json.JSONDecodeError):
        if found := TOLD.search(line):
            return found[1], json.loads(found[2])
    return "", {}


def _read(stream: Any, lines: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _stacks(worker: subprocess.Popen[str], lines: queue.Queue[str | None]) -> list[str]:
    """The stacks of a worker that hangs, in Python, if it can still tell them."""
    worker.send_signal(signal.SIGUSR1)
    time.sleep(DUMP_SECONDS)
    return [line for _ in range(lines.qsize()) if (line := lines.get_nowait())]


def _bury(worker: subprocess.Popen[str]) -> None:
    """End what a worker started when it has left: that would keep its output open."""
    worker.wait()
    _kill(worker)


def _kill(worker: subprocess.Popen[str]) -> None:
    """The worker and what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold on to a dead process
        worker.wait(timeout=10)

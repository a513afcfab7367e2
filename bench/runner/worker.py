"""The process that does the work: takes steps in order, and says what it starts before it starts it."""

import argparse
import faulthandler
import functools
import os
import pathlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from pallas_conv.verify import check

from . import log as logs
from .device import capability, describe
from .programs import Built, Compiler
from .script import BAD, LOSSES, OUT_OF_TIME, SKIPPED, Limits, Program, Row, Script, Skipped, Step

BEGIN, ALIVE = "@begin", "@alive"  # lines for the watching process: a word and JSON
NO_GPU, FOUND_BAD, LOST = 2, 3, 70  # exit statuses of a worker; LOST: the device no longer answers


class Context:
    """The state that the steps of one worker share.

    options  the script's arguments
    log      appends rows; `log.rows` are those of the run so far, earlier workers' too
    seed     drawn anew for every step, and logged before it
    about    fields of the row if the current launch hangs or crashes
    """

    def __init__(self, options: argparse.Namespace, log: logs.Log):
        self.options, self.log, self.seed = options, log, 0
        self.about: Row = {}
        folder = pathlib.Path(options.cache) / log.path.stem
        folder.mkdir(parents=True, exist_ok=True)
        self.compiler = Compiler(options.processes, folder, "cpu" if options.dry_run else "cuda", self.alive)

    @functools.cached_property
    def device(self) -> Any:
        import jax

        return jax.devices()[0]

    @property
    def seconds_left(self) -> float:
        return self.options.started + 60 * self.options.minutes - time.time()

    @property
    def limits(self) -> Limits:
        return self.options.limits

    @property
    def dry(self) -> bool:
        return self.options.dry_run

    @property
    def capability(self) -> tuple[int, int] | None:
        return capability(self.dry)

    def tell(self, word: str, what: Row) -> None:
        """A line to the watching process, if there is one, in one piece, whatever else is written."""
        if self.options.worker is not None:
            sys.stdout.write(f"{word} {logs.dumps(what)}\n")
            sys.stdout.flush()

    def alive(self, **about: Any) -> None:
        """Tell the watching process that the step goes on, and what is about to be launched: nothing, if nothing is said.

        "kernel": one of ours is. What comes after a launch must not be filed as the kernel's fault: say nothing then.
        """
        self.about = {"seed": self.seed, **about}
        self.tell(ALIVE, self.about)

    def launch(self, program: Program, *operands: Any, **about: Any) -> Any:
        """Say what is launched, and launch it. Raises what `compiled` raises."""
        built = self.compiled(program)
        asked = {"question": program.question} if program.question else {}
        self.alive(**built.about, **about, **asked, kernel=program.kernel)
        return built.call(*operands)

    def compiled(self, program: Program) -> Built:
        """The program. Raises Skipped where it is a kernel that must not run any more, else what its compilation raised."""
        if program.kernel and (why := self._too_many(program.question)):
            raise Skipped(why)
        built = self.compiler.get(program)
        if program.kernel and (again := _code_paths(built.about) & _code_paths(*self._lost_kernels())):
            raise Skipped(f"a kernel of the same code path hung or crashed before: {'; '.join(sorted(again))}")
        return built

    def _too_many(self, question: str) -> str:
        """The reason why no kernel, or none of a question, may run any more, or ""."""
        lost, most = self._lost_kernels(), self.limits.losses
        causes = {row.get("question") or frozenset(_code_paths(row)) for row in lost if _code_paths(row)}
        if len(causes) >= most:
            return f"{len(causes)} kernels hung or crashed before"
        if question and sum(row.get("question") == question for row in lost) >= most:
            return f"{most} kernels of the same question hung or crashed before: {question}"
        return ""

    def _lost_kernels(self) -> list[Row]:
        return [r for r in self.log.rows if r["status"] in LOSSES and r.get("kernel")]


def _code_paths(*rows: Row) -> set[str]:
    """Code paths of rows: one each, or several for a program that holds several kernels."""
    return {path for row in rows for path in (row.get("code_path"), *row.get("code_paths", ())) if path}


def steps(script: Script, options: argparse.Namespace) -> list[Step]:
    """The device, and those of the script that --only asks for."""
    kinds = options.only.split(",") if options.only else []
    wanted = [step for step in script.steps(options) if not kinds or step.kind in kinds]
    return [Step("device", "device", describe, seconds=60), *wanted]


def run(script: Script, options: argparse.Namespace, first: int = 0) -> int:
    """Take the steps from the first on; 0, FOUND_BAD or LOST."""
    context = Context(options, logs.Log(options.file, options.started))
    try:
        return _run(context, steps(script, options), first)
    finally:
        context.compiler.close()


def _run(context: Context, every: list[Step], first: int) -> int:
    context.compiler.lower(p for step in every[first:] for p in step.programs)
    found = set()
    for index in range(first, len(every)):
        if context.seconds_left < context.limits.spare:
            context.log(every[index].kind, every[index].name, {"status": OUT_OF_TIME})
            continue
        context.seed = int.from_bytes(os.urandom(3))
        _compile_ahead(context, every, index)
        statuses = list(_take(context, index, every[index]))
        if LOST in statuses:
            return LOST
        found.update(statuses)
    return FOUND_BAD if found & set(BAD) else 0


def _compile_ahead(context: Context, every: list[Step], index: int) -> None:
    """Compile what this step needs, if it is not yet, and with it the next steps' of its kind, in a part of the time left."""
    step, alone = every[index], context.options.one_by_one
    if all(map(context.compiler.has, step.programs)):
        return
    chunk = every[index : index + (1 if alone else context.limits.ahead)]
    programs = [p for s in chunk for p in s.programs if s.kind == step.kind]
    if not alone:
        context.compiler.keep(programs)
    start, until = time.monotonic(), time.monotonic() + context.seconds_left / 3
    name = f"{len(set(programs))}_from_{step.kind}_{step.name}"
    begin = {"index": index, "kind": "compile", "name": name, "limit": context.limits.compile, "alone": alone}
    context.tell(BEGIN, begin | {"launch": {}})
    done = context.compiler.build(programs, until)
    if not alone:
        context.log("compile", name, {"programs": done, "seconds": round(time.monotonic() - start, 2)})


def _take(context: Context, index: int, step: Step) -> Iterator[Any]:
    """Log the rows of a step: their statuses, and LOST if the device no longer answers."""
    context.about = {"seed": context.seed}
    limit = context.limits.step if step.seconds is None else step.seconds
    begin = {"index": index, "kind": step.kind, "name": step.name, "limit": limit, "again": step.again}
    context.tell(BEGIN, begin | {"launch": context.about})
    try:
        for row in step.work(context) or ():
            yield context.log(step.kind, step.name, row)["status"]
    except Skipped as why:
        yield context.log(step.kind, step.name, {"status": f"{SKIPPED}{why}"})["status"]
    except Exception as error:
        yield context.log(step.kind, step.name, context.about | logs.error(error))["status"]
        if gone := check.lost():
            context.log("run", "device lost", context.about | logs.error(gone) | {"status": "crashed"})
            yield LOST


def main(script: Script, options: argparse.Namespace) -> int:
    """Run as a process of its own. Leaves at once: destructors may wait for a device that does not answer."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # what the watching process asks for before it kills
    status = run(script, options, options.worker)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

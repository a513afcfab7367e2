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

from . import log as logs
from .device import capability, describe, num_sms
from .programs import Built, Compiler
from .script import BAD, LOSSES, OUT_OF_TIME, SKIPPED, Limits, Program, Row, Script, Skipped, Step

BEGIN, ALIVE = "@begin", "@alive"  # lines for the watching process: a word and JSON
NO_GPU, FOUND_BAD, LOST = 2, 3, 70  # exit statuses of a worker; LOST: the device no longer answers


class Context:
    """What the steps of one worker share.

    options  the script's arguments
    log      appends rows; `log.rows` are those of the run so far, earlier workers' too
    seed     drawn anew for every step, and logged before it
    about    what was said of the last launch
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

    @property
    def num_sms(self) -> int:
        return num_sms(self.dry)

    def tell(self, word: str, what: Row) -> None:
        """A line to the watching process, if there is one, in one piece, whatever else is written."""
        if self.options.worker is not None:
            sys.stdout.write(f"{word} {logs.dumps(what)}\n")
            sys.stdout.flush()

    def alive(self, **about: Any) -> None:
        """Tell the watching process that the step goes on and, if anything, what a row of its death shall say from here on.

        "kernel": one of ours is about to be launched.
        """
        if about:
            self.about = {"seed": self.seed, **about}
        self.tell(ALIVE, self.about if about else {})

    def launch(self, program: Program, *operands: Any, **about: Any) -> Any:
        """Say what is launched, and launch it. Raises what `compiled` raises."""
        built = self.compiled(program)
        self.alive(**built.about, **about, kernel=program.kernel)
        return built.call(*operands)

    def compiled(self, program: Program) -> Built:
        """The program. Raises Skipped where it is a kernel that must not run any more, else what its compilation raised."""
        if program.kernel and len(lost := self._lost_kernels()) >= self.limits.losses:
            raise Skipped(f"{len(lost)} kernels hung or crashed before")
        built = self.compiler.get(program)
        if program.kernel and (again := _code_paths(built.about) & _code_paths(*self._lost_kernels())):
            raise Skipped(f"a kernel of the same code path hung or crashed before: {'; '.join(sorted(again))}")
        return built

    def _lost_kernels(self) -> list[Row]:
        return [r for r in self.log.rows if r["status"] in LOSSES and r.get("kernel")]


def _code_paths(*rows: Row) -> set[str]:
    """One, or several where a program holds several kernels."""
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
        _compile_ahead(context, every, index)
        statuses = list(_take(context, index, every[index]))
        if LOST in statuses:
            return LOST
        found.update(statuses)
    return FOUND_BAD if found & set(BAD) else 0


def _compile_ahead(context: Context, every: list[Step], index: int) -> None:
    """What this step needs, if it is not compiled yet, and with it the next steps' of its kind, in a part of the time left."""
    step, alone = every[index], context.options.one_by_one
    if all(map(context.compiler.has, step.programs)):
        return
    chunk = every[index : index + (1 if alone else context.limits.ahead)]
    programs = [p for s in chunk for p in s.programs if s.kind == step.kind]
    if not alone:
        context.compiler.keep(programs)
    start, until = time.time(), time.time() + context.seconds_left / 3
    name = f"{len(set(programs))}_from_{step.kind}_{step.name}"
    begin = {"index": index, "kind": "compile", "name": name, "limit": context.limits.compile, "alone": alone}
    context.tell(BEGIN, begin | {"launch": {}})
    done = context.compiler.build(programs, until)
    if not alone:
        context.log("compile", name, {"programs": done, "seconds": round(time.time() - start, 2)})


def _take(context: Context, index: int, step: Step) -> Iterator[Any]:
    """Log the rows of a step: their statuses, and LOST if the device no longer answers."""
    context.seed = int.from_bytes(os.urandom(3))
    kernels = [p for p in step.programs if p.kernel]
    context.about = {"seed": context.seed} | ({"kernel": True} if kernels else {})
    for program in kernels:
        context.about |= context.compiler.about(program)
    limit = context.limits.step if step.seconds is None else step.seconds
    begin = {"index": index, "kind": step.kind, "name": step.name, "limit": limit}
    context.tell(BEGIN, begin | {"launch": context.about})
    try:
        for row in step.work(context) or ():
            yield context.log(step.kind, step.name, row)["status"]
    except Skipped as why:
        yield context.log(step.kind, step.name, {"status": f"{SKIPPED}{why}"})["status"]
    except Exception as error:
        yield context.log(step.kind, step.name, context.about | logs.error(error))["status"]
        if gone := lost():
            context.log("run", "device lost", context.about | logs.error(gone) | {"status": "crashed"})
            yield LOST


def lost() -> Exception | None:
    """What the device answers if it no longer does anything else: a kernel took the CUDA context down."""
    from pallas_conv.verify import check

    return check.lost()


def main(script: Script, options: argparse.Namespace) -> int:
    """Run as a process of its own. Leaves at once: destructors may wait for a device that does not answer."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # what the watching process asks for before it kills
    status = run(script, options, options.worker)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

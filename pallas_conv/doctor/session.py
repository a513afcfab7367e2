"""A run on a Hopper GPU: check after check until the time is over, each recorded and said at once.

What the check needs from XLA is compiled in its turn, while nothing else uses the GPU. Kernels are compiled ahead, beside it.
"""

import collections
import concurrent.futures
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from .. import record, trust
from ..record import Record
from ..target import Target
from ..verify.check import lost
from ..wanted import wanted
from . import kept, plan, text
from .check import Ahead, Finding, compile_ahead, examine, lax_program
from .plan import Check

WORKERS = 4  # more would wait for Python's lock
AHEAD = 16  # checks

type Outcome = Finding | Exception


def run(target: Target, minutes: float) -> int:
    """Print a line a check; 1 if anything was wrong or failed, else 0, but 130 if it was interrupted."""
    until = time.monotonic() + 60 * minutes
    rows = plan.rows(wanted())
    checks = plan.checks(rows, target)
    known, seed = kept.begin(target), int.from_bytes(os.urandom(4), "little")
    todo = plan.order(checks, known)
    print(f"\n{'':4} {'product':36} {text.COLUMNS} {'speed':>8}")
    found: list[Outcome] = []
    interrupted = False
    try:
        for check, outcome in outcomes([*todo.needed, *todo.rest], target, seed, until):
            found.append(outcome)
            if isinstance(outcome, Finding):
                known = kept.keep(known, check, outcome)
            print(_told(outcome, until), flush=True)
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted")
    print("", *summary(found, known, seed), sep="\n")
    print(f"`auto` takes kernels for {plan.coverage(trust.proofs(target), checks, rows)}")
    if left := len(todo.needed[len(found) :]):
        print(f"{left} more checks would let it take more: run doctor again, or with more --minutes")
    return 130 if interrupted else int(not all(isinstance(o, Finding) and o.held.right for o in found))


def summary(outcomes: Sequence[Outcome], known: Record, seed: int) -> Iterator[str]:
    """What came out, and where it is recorded."""
    findings = [o for o in outcomes if isinstance(o, Finding)]
    failed, wrong = len(outcomes) - len(findings), sum(not f.held.right for f in findings)
    right = f"{len(findings) - wrong} of {len(outcomes)} are right"
    yield right + f", {wrong} wrong" * bool(wrong) + f", {failed} failed" * bool(failed) + f" (random seed {seed})"
    ratios = [f.timing.ratio for f in findings if f.timing]
    yield f"{sum(ratio >= trust.MARGIN for ratio in ratios)} of {len(ratios)} are faster than XLA by {trust.MARGIN - 1:.0%}"
    if any(f.no_device_times for f in findings):
        yield "there were no times of the device itself, which CUPTI has: `auto` relies on no others"
    if findings:
        yield f"recorded in {record.users_own(known)}"
    if kept.wrong(known):
        yield f"what was found wrong, now or before, is not taken until that file is deleted: {kept.wrong(known)} of them"


def outcomes(todo: Sequence[Check], target: Target, seed: int, until: float) -> Iterator[tuple[Check, Outcome]]:
    """Of each check, begun before `until`. A name is printed first: it is what hangs, if anything does."""
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
    try:
        for number, (check, ahead) in enumerate(_ahead(todo, target, pool), 1):
            if time.monotonic() >= until:
                return
            print(f"{number:4} {check.name:36} ", end="", flush=True)
            outcome = attempt(check, ahead, target, seed + number)
            yield check, outcome
            if isinstance(outcome, Exception) and (dead := lost()):
                print(f"the GPU no longer answers ({text.first_line(dead)}): run doctor again, which goes on from here")
                return
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    todo: Sequence[Check], target: Target, pool: concurrent.futures.Executor
) -> Iterator[tuple[Check, Future[Ahead]]]:
    begun: collections.deque[tuple[Check, Future[Ahead]]] = collections.deque()
    for check in todo:
        begun.append((check, pool.submit(compile_ahead, check, target)))
        if len(begun) > AHEAD:
            yield begun.popleft()
    yield from begun


def attempt(check: Check, ahead: Future[Ahead], target: Target, seed: int) -> Outcome:
    """An exception says nothing about the result: neither right nor wrong."""
    try:
        return examine(check, ahead.result(), lax_program(check.product, target), seed)
    except Exception as error:
        return error


def _told(outcome: Outcome, until: float) -> str:
    left = f"{max(0, until - time.monotonic()):4.0f} s left"
    if isinstance(outcome, Exception):
        return f"{text.failed(outcome)}   {left}"
    speed = f"{outcome.timing.ratio:.2f}x" if outcome.timing else "-"
    return f"{text.held(outcome.held)} {speed:>8}   {left}"

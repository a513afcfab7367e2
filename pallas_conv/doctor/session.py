"""A run on a Hopper GPU: check after check until the time is over, each recorded and said at once.

What the check needs from XLA is compiled in its turn, while nothing else uses the GPU. Kernels are compiled ahead, beside it.
"""

import collections
import concurrent.futures
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from ..dispatch import trust
from ..target import Target
from ..verify.check import lost
from ..wanted import wanted
from . import kept, plan, text
from .check import Ahead, Finding, Program, compile_ahead, examine, lax_program
from .kept import Keeper
from .plan import Check

WORKERS = 4  # more would wait for Python's lock
AHEAD = 16  # checks
HANGING = (
    r"if a kernel hangs, and Ctrl-C does nothing, press Ctrl-\ and run doctor again: it goes on without that kernel"
)

type Outcome = Finding | Exception


def run(target: Target, minutes: float) -> int:
    """Run checks, with a line for each. 130 if interrupted, 1 if one failed or a kernel is on record as wrong, else 0."""
    with kept.keeping(target) as keeper:
        return _run(keeper, target, minutes)


def _run(keeper: Keeper, target: Target, minutes: float) -> int:
    until = time.monotonic() + 60 * minutes
    rows = plan.rows(wanted())
    checks = plan.checks(rows, target)
    seed = int.from_bytes(os.urandom(4), "little")
    order = plan.order(checks, keeper.known)
    todo = [*order.needed, *order.rest]
    print(HANGING)
    print(f"\n{'':4} {'product':{text.width(todo)}} {text.COLUMNS} {'speed':>8}")
    found: list[Outcome] = []
    interrupted = False
    try:
        for outcome in outcomes(todo, target, seed, until, keeper):
            found.append(outcome)
            print(_told(outcome, until), flush=True)
    except KeyboardInterrupt:
        interrupted = True
        keeper.save()  # it may have come just before or after a kernel ran
        print("\ninterrupted")
    print("", *summary(found, keeper, seed), sep="\n")
    print(f"`auto` takes kernels for {plan.coverage(plan.known_proofs(target), checks, rows)}")
    if left := len(order.needed[len(found) :]):
        print(f"{left} more checks would let it take more: run doctor again, or with more --minutes")
    failed = any(isinstance(outcome, Exception) for outcome in found)
    return 130 if interrupted else int(failed or keeper.wrong() > 0)


def summary(outcomes: Sequence[Outcome], keeper: Keeper, seed: int) -> Iterator[str]:
    """Lines that sum up the outcomes, and say where they are recorded."""
    findings = [o for o in outcomes if isinstance(o, Finding)]
    failed, wrong = len(outcomes) - len(findings), sum(not f.held.right for f in findings)
    right = f"{len(findings) - wrong} of {len(outcomes)} are right"
    yield right + f", {wrong} wrong" * bool(wrong) + f", {failed} failed" * bool(failed) + f" (random seed {seed})"
    ratios = [f.timing.ratio for f in findings if f.timing]
    yield f"{sum(ratio >= trust.MARGIN for ratio in ratios)} of {len(ratios)} are faster than XLA by {trust.MARGIN - 1:.0%}"
    if untimed := sum(f.no_device_times for f in findings):
        yield f"CUPTI gave no times of the device for {untimed} of {len(findings)}: `auto` relies on no other times"
    yield from (f"recorded in {path}" for path in keeper.files())
    if wrong := keeper.wrong():
        yield f"what was found wrong, now or before, is neither taken nor checked until that file is deleted: {wrong} of them"
        yield "what was running when doctor was killed counts as wrong until the file is deleted"


def outcomes(todo: Sequence[Check], target: Target, seed: int, until: float, keeper: Keeper) -> Iterator[Outcome]:
    """The outcome of each check that begins before `until`, recorded.

    The name is printed before the launch, so a hang shows which product it was.
    """
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
    try:
        for number, (check, ahead) in enumerate(_ahead(todo, pool), 1):
            if time.monotonic() >= until:
                return
            print(f"{number:4} {check.name:{text.width(todo)}} ", end="", flush=True)
            outcome = attempt(check, ahead, target, seed + number, keeper)
            yield outcome
            if isinstance(outcome, Exception) and (dead := lost()):
                print(
                    f"the GPU no longer answers ({text.first_line(dead)}): run doctor again, which goes on after this"
                )
                return
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(todo: Sequence[Check], pool: concurrent.futures.Executor) -> Iterator[tuple[Check, Future[Ahead]]]:
    begun: collections.deque[tuple[Check, Future[Ahead]]] = collections.deque()
    for check in todo:
        begun.append((check, pool.submit(compile_ahead, check)))
        if len(begun) > AHEAD:
            yield begun.popleft()
    yield from begun


def attempt(check: Check, ahead: Future[Ahead], target: Target, seed: int, keeper: Keeper) -> Outcome:
    """Compile what is left to compile, then run, compare, time and record."""
    try:
        programs = ahead.result(), lax_program(check, target)
    except Exception as error:
        return error
    with keeper.suspecting(check):
        return _learned(check, *programs, seed, keeper)


def _learned(check: Check, ahead: Ahead, lax: Program, seed: int, keeper: Keeper) -> Outcome:
    """The outcome of a check, recorded.

    After an exception the kernel counts as neither right nor wrong. If it took the GPU down, the kernel counts as wrong.
    """
    try:
        finding = examine(check, ahead, lax, seed)
    except Exception as error:
        if lost():
            keeper.convict(check)
        return error
    keeper.learn(check, finding)
    return finding


def _told(outcome: Outcome, until: float) -> str:
    left = f"{max(0, until - time.monotonic()):4.0f} s left"
    if isinstance(outcome, Exception):
        return f"{text.failed(outcome)}   {left}"
    speed = f"{outcome.timing.ratio:.2f}x" if outcome.timing else "-"
    return f"{text.held(outcome.held)} {speed:>8}   {left}"

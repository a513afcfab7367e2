"""The words for findings and plans, a line each."""

from collections.abc import Iterator, Sequence

from ..target import Target
from ..verify.check import Held
from . import plan
from .plan import Check, Row

COLUMNS = f"{'result':7} {'error':>9} {'bound':>9}"


def held(found: Held) -> str:
    """A finding as a row under COLUMNS."""
    return f"{'right' if found.right else 'WRONG':7} {found.worst.error:9.1e} {found.worst.bound:9.1e}"


def failed(error: Exception) -> str:
    return f"FAILED  {first_line(error)}"


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def width(checks: Sequence[Check]) -> int:
    """The width of a column that holds the names of these checks."""
    return max((len(check.name) for check in checks), default=0)


def planned(rows: Sequence[Row], checks: Sequence[Check], target: Target, minutes: float) -> Iterator[str]:
    """The plan of a run on this device: its checks in so many minutes, their order, and what `auto` would take afterwards."""
    order = plan.order(checks)
    timed = list(plan.in_time(order.needed, 60 * minutes))
    column = width([check for check, _ in timed])
    yield f"on {target}, starting nothing after {minutes:g} minutes; seconds are estimated"
    yield f"{'':4} {'product':{column}} {'done at':>8}  code path | epilogue"
    for number, (check, done) in enumerate(timed, 1):
        yield f"{number:4} {check.name:{column}} {done:6.0f} s  {check.facts.code_path} | {check.facts.epilogue}"
    if late := len(order.needed) - len(timed):
        yield f"{late} more, which would let `auto` take more, are left to another run or to more --minutes"
    yield f"{len(order.rest)} checks that those speak for come last, while time is left"
    done = timed[-1][1] if timed else 0
    taken = plan.coverage(plan.proofs(check for check, _ in timed), checks, rows)
    yield f"covers {taken}, in about {done:.0f} s"

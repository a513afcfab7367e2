"""Does a record of a hardware run say that a kernel is right, and faster than the lax program that `auto` takes otherwise?

Right: by compute capability, in all records of this JAX and these kernels together. A kernel is right if its code path and its
epilogue each passed in some check, and no check of either failed; or if a check of both together passed, and none failed.
Faster: at the nearest size that was timed beside the same lax program, by a margin that is wider for another kind of GPU.
"""

import contextlib
import functools
import logging
import pathlib
from typing import NamedTuple

import jax

from ..kernels import digest
from ..kernels.family import Facts, Size
from ..target import Target
from . import record
from .record import RAN, Checks, Record, Timing

MARGIN = 1.05  # times the lax program's speed, or the kernel is not taken: about what two runs differ by
WIDER_MARGIN = 1.15  # where another kind of GPU was timed, other tiles than today's, or another JAX
MARGIN_AN_OCTAVE = 0.03  # so much more for every octave between the product and the one that was timed
NEAR = 4.0  # octaves, see `Size.distance`: a time says nothing about products further away than that

_log = logging.getLogger("pallas_conv")


class Trust(NamedTuple):
    """Whether `auto` may take a kernel, and why or why not."""

    trusted: bool
    why: str


class Timed(NamedTuple):
    """A timing, the margin it must keep, and the record it is from."""

    timing: Timing
    margin: float
    file: str


class Proofs(NamedTuple):
    """The checks and times that all records together have of the kernels on a device. False if there is no record."""

    checks: Checks
    timed: tuple[Timed, ...]
    device: str

    def __bool__(self) -> bool:
        return bool(self.checks)

    @property
    def any_wrong(self) -> bool:
        return not all(right for found in self.checks.values() for right in found.values())

    def look_up(self, facts: Facts, rival: str) -> Trust:
        """Whether `auto` may take a kernel that has these facts. rival: the lax program that it takes otherwise."""
        if against := self.not_right(facts):
            return Trust(False, against)
        return self.faster(facts.series, facts.size, rival)

    def faster(self, series: str, size: Size, rival: str) -> Trust:
        """Whether the kernel of such a product, if it is right, is faster than this lax program. The tile need not be known."""
        nearest = self.nearest(series, size, rival)
        if nearest is None:
            return Trust(
                False, f"no product near this one was timed on {self.device} against the lax program {rival!r}"
            )
        timing, margin, file = nearest
        margin += MARGIN_AN_OCTAVE * timing.size.distance(size)
        why = f"{timing.ratio:.2f}x the speed of {rival!r} at {timing.size.macs:.2g} multiply-adds, says the record {file}"
        if timing.ratio >= margin:
            return Trust(True, why)
        return Trust(False, f"not faster on this device by a margin of {margin - 1:.0%}: {why}")

    def nearest(self, series: str, size: Size, rival: str) -> Timed | None:
        """The nearest product of the series that was timed beside this lax program, if one is near."""
        beside = (t for t in self.timed if (t.timing.series, t.timing.lax) == (series, rival))
        near = [(distance, t) for t in beside if (distance := t.timing.size.distance(size)) <= NEAR]
        return min(near, key=lambda found: (found[0], found[1].margin))[1] if near else None

    def not_right(self, facts: Facts) -> str | None:
        """The reason why a kernel that has these facts does not count as right; None if it does."""
        together = self.checks.get(facts.code_path, {}).get(facts.epilogue)
        if together:
            return None
        of_path = self.checks.get(facts.code_path, {}).values()
        of_epilogue = [found[facts.epilogue] for found in self.checks.values() if facts.epilogue in found]
        if not all((*of_path, *of_epilogue)):
            return (
                f"found wrong on {self.device}: the code path {facts.code_path!r} with the epilogue {facts.epilogue!r}"
            )
        for what, found in (("code path", of_path), ("epilogue", of_epilogue)):
            if not found:
                name = facts.code_path if what == "code path" else facts.epilogue
                return f"unproven on {self.device}: no record of the {what} {name!r}"
        return None


def proofs(family: str, target: Target) -> Proofs:
    """The checks and times that the shipped records and the user's own have of a family on a device.

    Where processes must agree, the shipped ones alone count.
    """
    found = []
    for path in record.files(family, include_user=jax.process_count() == 1):
        with contextlib.suppress(FileNotFoundError):  # replaced meanwhile
            found.append((path, path.stat().st_mtime_ns))
    return _together(family, target, tuple(found))


@functools.lru_cache(maxsize=16)
def _together(family: str, target: Target, files: tuple[tuple[pathlib.Path, int], ...]) -> Proofs:
    """The proofs in these files, at these times of change."""
    records = [(path.name, known) for path, mtime in files if (known := _load(path, mtime))]
    capability = "{}.{}".format(*target.capability) if target.capability else None
    of_source = [(name, r) for name, r in records if r.holds_for(jax.__version__, digest.code(family))]
    here = [(name, r) for name, r in of_source if r.capability == capability]
    checks: Checks = {}
    for _, r in here:
        for path, by_epilogue in r.checks.items():
            before = checks.setdefault(path, {})
            before |= {epilogue: right and before.get(epilogue, True) for epilogue, right in by_epilogue.items()}
    # Of times that are as near and as sure the user's own come first: the last file.
    timed = [Timed(timing, _margin(r, family, target), name) for name, r in reversed(here) for timing in r.timings]
    return Proofs(checks, tuple(timed), str(target.device_kind))


def _margin(found: Record, family: str, target: Target) -> float:
    todays = target.device_kind, digest.choice(family, target.device_kind)
    timed_by_this_jax = any(source.how == RAN and source.jax == jax.__version__ for source in found.sources)
    return MARGIN if (found.device_kind, found.choice) == todays and timed_by_this_jax else WIDER_MARGIN


def nothing_known(family: str, target: Target) -> str:
    """The reason why no kernel of a family is taken where there is no record of it."""
    _suggest_doctor(family, str(target.device_kind))
    return (
        f"unproven on this device: no record of these {family} kernels on {target.device_kind} with JAX {jax.__version__}; "
        f"`python -m pallas_conv doctor` makes one"
    )


@functools.lru_cache(maxsize=64)
def _load(path: pathlib.Path, _mtime: int) -> Record | None:
    try:
        found = record.load(path)
        if path.parent.parent == record.SHIPPED and not found.evidence:
            raise ValueError("evidence is empty: a shipped record names the committed rows that it was made from")
        return found
    except (OSError, ValueError) as error:
        _log.warning(
            "pallas_conv: %s is no readable record and is ignored; delete it or run doctor again (%s)", path, error
        )
        return None


@functools.cache
def _suggest_doctor(family: str, device_kind: str) -> None:
    _log.info(
        "pallas_conv: XLA serves what %s kernels would on %s until proven there: run `python -m pallas_conv doctor` once",
        family,
        device_kind,
    )

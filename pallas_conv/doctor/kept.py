"""The user's record of this machine: begun or continued, and kept after every check."""

import dataclasses
import datetime
import shutil
import subprocess

import jax

from .. import record
from ..kernels import digest
from ..record import Record, Source
from ..target import Target
from .check import Finding
from .plan import Check


def begin(target: Target) -> Record:
    """What earlier runs with this source found, or nothing. Times of tiles that are no longer chosen do not count."""
    new = _empty(target)
    try:
        old = record.load(record.users_own(new))
    except (OSError, ValueError):
        return new
    return dataclasses.replace(new, checks=old.checks, timings=old.timings if old.choice == new.choice else ())


def _empty(target: Target) -> Record:
    return Record(
        device_kind=str(target.device_kind),
        capability="{}.{}".format(*(target.capability or ())),
        driver=driver_version(),
        date=datetime.date.today().isoformat(),
        sources=(Source(jax.__version__, digest.code(), "run"),),
        choice=digest.choice(),
        checks={},
        timings=(),
    )


def keep(known: Record, check: Check, finding: Finding) -> Record:
    """The record with a finding, on disk before anything else is run."""
    known = known.with_check(check.facts, finding.held.right)
    if finding.timing:
        known = known.with_timing(finding.timing)
    record.save(known, record.users_own(known))
    return known


def wrong(known: Record) -> int:
    """How many code paths with an epilogue were found wrong."""
    return sum(not right for found in known.checks.values() for right in found.values())


def driver_version() -> str:
    """Of the NVIDIA driver, or "unknown"."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return "unknown"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return lines[0] if lines else "unknown"

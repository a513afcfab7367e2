"""The user's record of this machine: begun or continued, and kept after every check.

While a kernel runs, the file counts it as wrong, and says what came out only afterwards. So a kernel that takes the process
down, or that hangs until someone kills doctor, counts as wrong until the file is deleted, and the next run goes on without it.
An interrupt that reaches Python leaves nothing of the kind: the file says again what was known before.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import pathlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping

import jax

from ..dispatch import record
from ..dispatch.record import RAN, Record, Source
from ..kernels import digest, families
from ..target import Target
from .check import Finding
from .plan import Check

DRIVER_SECONDS = 20.0  # nvidia-smi never answers on a GPU that fell off the bus


class Keeper:
    """The records of this machine, and their files. known: what was found out of each family, whatever runs now."""

    def __init__(self, known: Mapping[str, Record]):
        self.known = dict(known)

    @contextlib.contextmanager
    def suspecting(self, check: Check) -> Iterator[None]:
        """Count a kernel as wrong, in the file, while it runs."""
        _write(self.known[check.family].with_check(check.facts, right=False))
        try:
            yield
        finally:
            self.save()

    def learn(self, check: Check, finding: Finding) -> None:
        known = self.known[check.family].with_check(check.facts, finding.held.right)
        self.known[check.family] = known.with_timing(finding.timing) if finding.timing else known

    def convict(self, check: Check) -> None:
        self.known[check.family] = self.known[check.family].with_check(check.facts, right=False)

    def wrong(self) -> int:
        """Number of code paths with an epilogue that count as wrong."""
        found = (right for known in self.known.values() for by in known.checks.values() for right in by.values())
        return sum(not right for right in found)

    def files(self) -> list[pathlib.Path]:
        """The files in which the records are written."""
        return [record.users_own(known) for known in self.known.values() if known.checks]

    def save(self) -> None:
        """Write what is known. Where nothing is known, replace a file that says otherwise."""
        for known in self.known.values():
            if known.checks or record.users_own(known).exists():
                _write(known)


def _write(known: Record) -> None:
    path = record.users_own(known)
    with _kindly(str(path.parent)):
        record.save(known, path)


@contextlib.contextmanager
def keeping(target: Target) -> Iterator[Keeper]:
    """The keeper of this machine's records, which no other run may write meanwhile."""
    with _kindly("the home folder"):
        known = {family.name: begin(family.name, target) for family in families.FAMILIES}
        lock = record.users_folder() / f"{record.file_name(str(target.device_kind))}.lock"
    with _locked(lock):
        yield Keeper(known)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Hold a lock. The system lets go of it when the process ends, however it ends."""
    with contextlib.ExitStack() as opened:
        with _kindly(str(path.parent)):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context(path.open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("pallas_conv doctor: another one is keeping the same record; wait until it ends") from None
        except OSError:
            pass  # some file systems have no locks
        yield


@contextlib.contextmanager
def _kindly(folder: str) -> Iterator[None]:
    """End doctor with what to do about a folder that cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        raise SystemExit(
            f"pallas_conv doctor: the record cannot be kept in {folder} ({error}): "
            f"set PALLAS_CONV_CACHE_DIR to a folder that can be written"
        ) from None


def begin(family: str, target: Target) -> Record:
    """The record of what earlier runs with this source found of a family. Times of tiles no longer chosen do not count."""
    new = _empty(family, target)
    try:
        old = record.load(record.users_own(new))
    except (OSError, ValueError):
        return new
    return dataclasses.replace(new, checks=old.checks, timings=old.timings if old.choice == new.choice else ())


def _empty(family: str, target: Target) -> Record:
    return Record(
        family=family,
        device_kind=str(target.device_kind),
        capability="{}.{}".format(*(target.capability or ())),
        driver=driver_version(),
        date=datetime.date.today().isoformat(),
        sources=(Source(jax.__version__, digest.code(family), RAN),),
        choice=digest.choice(family, target.device_kind),
        checks={},
        timings=(),
    )


def driver_version() -> str:
    """The version of the NVIDIA driver, or "unknown"."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return "unknown"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, check=False, timeout=DRIVER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = shown.stdout.split()
    return lines[0] if lines else "unknown"

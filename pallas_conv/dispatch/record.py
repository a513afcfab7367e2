"""Records of hardware runs: what was found out about a family of kernels on one kind of GPU, as a file. `trust` reads them.

A record is JSON:

    family     the family's name, see `kernels.families`
    device_kind, capability ("9.0"), driver, date
    evidence   the committed rows that it was made from, as paths in the repository; empty in a user's own
    sources    [{"jax", "code", "how"}]: the versions of JAX and of the kernels' source (`kernels.digest.code`) that it
               holds for, and how that is known: by a "run", or since they compile to the same "instructions"
    choice     the digest of what chose the tiles that were timed (`kernels.digest.choice`)
    checks     {code path: {epilogue: found right?}}, see `kernels.family.Facts`
    timings    [{"series" (of products), "size", "kernel_us", "lax_us", "lax"}]: times on the device alone, of the kernel and
               of the lax program of that name
    programs   [{"product", "config", "num_sms", "digest"}]: a kernel for every check that passed, and the digest of its
               instructions

Shipped ones lie in `pallas_conv/records`, in a folder of each family, made by `python -m bench.record`; `python -m pallas_conv
doctor` writes the user's own.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any, NamedTuple

from .. import env, strict
from ..kernels.family import Facts, Size
from ..spec import Product

SHIPPED = pathlib.Path(__file__).parents[1] / "records"
_USER_FOLDER = "records"


RAN, SAME_INSTRUCTIONS = "run", "instructions"  # how a record is known to hold for a source


class Source(NamedTuple):
    """A version of JAX and of the kernels that a record holds for, and how that is known."""

    jax: str
    code: str
    how: str


class Timing(NamedTuple):
    """Microseconds of the kernel and of the lax program that `auto` takes otherwise, by its name."""

    series: str
    size: Size
    kernel_us: float
    lax_us: float
    lax: str

    @property
    def ratio(self) -> float:
        """The kernel's speed as a multiple of the lax program's."""
        return self.lax_us / self.kernel_us


class Program(NamedTuple):
    """A kernel, and the digest of the instructions it compiles to."""

    product: Product
    config: Any  # of the record's family, as JSON has it
    num_sms: int
    digest: str


Checks = dict[str, dict[str, bool]]  # code path -> epilogue -> found right


@dataclasses.dataclass(frozen=True)
class Record:
    """A record of hardware runs. The module says what its fields mean."""

    family: str
    device_kind: str
    capability: str
    driver: str
    date: str
    sources: tuple[Source, ...]
    choice: str
    checks: Checks
    timings: tuple[Timing, ...]
    programs: tuple[Program, ...] = ()
    evidence: tuple[str, ...] = ()

    def holds_for(self, jax: str, code: str) -> bool:
        return any((source.jax, source.code) == (jax, code) for source in self.sources)

    def with_check(self, facts: Facts, right: bool) -> "Record":
        """The record with one more check. A check that failed stays failed, whatever else of its kind passed."""
        of_path = self.checks.get(facts.code_path, {})
        found = right and of_path.get(facts.epilogue, True)
        return dataclasses.replace(self, checks=self.checks | {facts.code_path: of_path | {facts.epilogue: found}})

    def with_timing(self, timing: Timing) -> "Record":
        """The record with this timing in place of an earlier one of the same product beside the same program."""
        same = lambda t: (t.series, t.size, t.lax) == (timing.series, timing.size, timing.lax)
        return dataclasses.replace(self, timings=(*(t for t in self.timings if not same(t)), timing))

    def with_source(self, source: Source) -> "Record":
        if self.holds_for(source.jax, source.code):
            return self
        return dataclasses.replace(self, sources=(*self.sources, source))

    def to_json(self) -> dict[str, Any]:
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any) -> "Record":
        """The record in JSON data. Raises ValueError, naming the field, for data that is no record."""
        found = strict.parse(cls, data, "record")
        for t in found.timings:
            if min(*t.size, t.kernel_us, t.lax_us) <= 0:
                raise ValueError(f"record.timings must be of positive sizes and times, not {t}")
        return found


def load(path: pathlib.Path) -> Record:
    """The record in a file. Raises ValueError or OSError if there is none that can be read."""
    return Record.from_json(json.loads(path.read_text(encoding="utf-8")))


def save(record: Record, path: pathlib.Path) -> None:
    """Write a record so that nobody reads half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(f".{os.getpid()}.tmp")
    whole.write_text(json.dumps(record.to_json(), indent=1) + "\n", encoding="utf-8")
    whole.replace(path)


def file_name(device_kind: str) -> str:
    """The file name of a shipped record: the device's name in lower case, its words joined."""
    return "-".join("".join(c if c.isalnum() else " " for c in device_kind.lower()).split()) + ".json"


def users_folder() -> pathlib.Path:
    """The folder that holds the user's records."""
    return env.read("PALLAS_CONV_CACHE_DIR") / _USER_FOLDER


def users_own(record: Record) -> pathlib.Path:
    """The path of the user's record of this family, device, JAX and source."""
    source = record.sources[0]
    name = file_name(record.device_kind).removesuffix(".json")
    return users_folder() / record.family / f"{name}_jax-{source.jax}_{source.code}.json"


def files(family: str, include_user: bool) -> list[pathlib.Path]:
    """The shipped records of a family, then the user's own, which overrule them."""
    folders = [SHIPPED]
    if include_user:
        with contextlib.suppress(RuntimeError):  # no home, no records
            folders.append(users_folder())
    return [path for folder in folders for path in sorted((folder / family).glob("*.json"))]

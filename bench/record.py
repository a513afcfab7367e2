"""Turns rows of hardware runs into records that ship: python -m bench.record bench/results/h100/gpu-*.jsonl

Writes pallas_conv/records/<family>/<device>.json for each family of kernels that ran. A record names the rows as its evidence:
commit both. It is derived from the rows alone, so a test derives every shipped one anew; only the digests of compiled kernels,
by which it is renewed later (see bench.renew), are made here, from the source that ran.

What counts, of rows by bench.gpu, bench.tune and whatever else runs kernels (see bench.gpu for their form):

    device         the GPU, JAX and, by family, the kernels that ran: alike in all files. The choice of tiles may differ: the
                   record is of that of the last file
    family         of a row's kernel: the dense one if there is none, since there was no other
    facts          a row of a kernel that has them is a check: the status "ok" is right; "wrong", "hung" and "crashed" are
                   wrong, and stay so; any other proves nothing
    several_facts  of a program of several kernels: all of them are wrong if it hung or crashed
    lax, lax_us    beside "kernel_us", both by CUPTI: a timing. Of a run with the record's choice it is of the tile that was
                   chosen then ("today_us", where several were timed). Tuning under an earlier choice counts, too, with the
                   tile that was kept, for products that were not timed since. Of several timings of a product beside one
                   program the least favourable counts. lax_beside, lax_beside_us: likewise, beside the program that `auto`
                   takes beside kernels

Refused are rows of a dry run, of several devices or sources, and of a source that is not the present one. There is one
record a family and device: a new one takes the place of the old.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from tqdm import tqdm

from pallas_conv.dispatch import record
from pallas_conv.dispatch.record import RAN, Program, Record, Source, Timing
from pallas_conv.kernels import digest, families
from pallas_conv.kernels.family import Facts
from pallas_conv.kernels.gpu import GENERATIONS, Gpu
from pallas_conv.kernels.serve import Kernel
from pallas_conv.spec import Product

from . import instructions
from .runner.log import by_family, family_of

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
RIGHT, WRONG = ("ok",), ("wrong", "hung", "crashed")
DEVICE = ("device_kind", "compute_capability", "driver", "jax", "code")
BY_FAMILY = ("code", "choice", "several_facts")

# The digest of a choice of tiles by the digest that rows have of it, both of the dense family. The first is from when lax
# programs still counted for it, the next two are from when the tiles of every device did, the last ones from when the kernels
# were one family in one folder, and all from when rows of another generation's devices could have counted, of which there are
# none, and when each family listed boxes of pixels itself. The third is not quite the same choice: the H100 still took tiles of
# the H200 then. Where it has another tile now, tuning timed both, and they are within 3% of each other (a test says so).
ON_H200, ON_H100 = "f0385374c915", "0f83d474f2d4"
SAME_CHOICE = {
    "834071167132": ON_H200, "6f9204cc913d": ON_H200, "67764514a533": ON_H100, "aaf78cf4391a": ON_H200,
    "3f82ea7dfb81": ON_H100,
}  # fmt: skip

Row = dict[str, Any]


def read(path: pathlib.Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def derived(files: dict[str, list[Row]]) -> list[Record]:
    """The records that rows prove, by the name of their file, one a family. Raises ValueError if they prove nothing."""
    ran = _families(files)
    if not ran:
        raise ValueError(f"no kernel was checked in {', '.join(files)}")
    return [_derived(family, of_family(family, files)) for family in ran]


def _families(files: dict[str, list[Row]]) -> list[str]:
    """The families of which there are rows."""
    found: dict[str, None] = {}
    for row in (row for rows in files.values() for row in rows):
        if row.get("facts") is not None:
            found[family_of(row)] = None
        if row["status"] in WRONG[1:]:
            found |= dict.fromkeys(by_family(row.get("several_facts", {})))
    return list(found)


def of_family(family: str, files: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows as if there were no other family."""
    return {name: [_of_family(family, row) for row in rows] for name, rows in files.items()}


def _of_family(family: str, row: Row) -> Row:
    own = {field: by_family(row[field]).get(family) for field in BY_FAMILY if field in row}
    if family_of(row) != family:
        own["facts"] = None
    return row | own


def _derived(family: str, files: dict[str, list[Row]]) -> Record:
    device, date = _device(files)
    found = Record(
        family,
        device["device_kind"],
        device["compute_capability"],
        device["driver"] or "unknown",
        date,
        (Source(device["jax"], device["code"], RAN),),
        SAME_CHOICE.get(device["choice"], device["choice"]),
        {},
        (),
        evidence=tuple(files),
    )
    for row, facts in _of_kernels(files):
        if row["status"] in (*RIGHT, *WRONG):
            found = found.with_check(facts, row["status"] in RIGHT)
    for facts in _lost_together(files):
        found = found.with_check(facts, right=False)
    for timing in sorted(_timings(files, device["choice"]), key=lambda t: t.ratio, reverse=True):
        found = found.with_timing(timing)
    if not found.checks:
        raise ValueError(f"no kernel was checked in {', '.join(files)}")
    return Record.from_json(found.to_json())  # which raises, too


def _timings(files: dict[str, list[Row]], choice: str) -> Iterator[Timing]:
    """Times of products under this choice of tiles. Other products have those that tuning kept under an earlier choice."""
    current = {name: rows for name, rows in files.items() if _chosen_by(rows) == choice}
    earlier = {name: rows for name, rows in files.items() if name not in current}
    timed = set()
    for row, facts in _timed(current):
        timed.add(Product.from_json(row["product"]))
        yield from _beside_programs(row, facts, row.get("today_us") or row["kernel_us"])
    for row, facts in _timed(earlier):
        if "timed" in row and Product.from_json(row["product"]) not in timed:
            yield from _beside_programs(row, facts, row["kernel_us"])


def _beside_programs(row: Row, facts: Facts, kernel_us: float) -> Iterator[Timing]:
    """The kernel's time beside each lax program that `auto` may take instead."""
    yield Timing(facts.series, facts.size, kernel_us, row["lax_us"], row["lax"])
    if row.get("lax_beside_us"):
        yield Timing(facts.series, facts.size, kernel_us, row["lax_beside_us"], row["lax_beside"])


def _chosen_by(rows: list[Row]) -> str:
    return next(str(row["choice"]) for row in rows if row["kind"] == "device")


def _timed(files: dict[str, list[Row]]) -> Iterator[tuple[Row, Facts]]:
    for row, facts in _of_kernels(files):
        if row["status"] in RIGHT and row.get("source") == "cupti" and row.get("lax_us"):
            yield row, facts


def _lost_together(files: dict[str, list[Row]]) -> Iterator[Facts]:
    """Facts of kernels that may have hung or crashed, where several ran together."""
    for name, rows in files.items():
        for row in rows:
            if row["status"] in WRONG[1:]:
                yield from (Facts.from_json(it, f"{name}, several_facts") for it in row.get("several_facts") or ())


def kernel_of(found: Record, product: Product, config: Any, num_sms: int) -> Kernel:
    """A kernel of a record's family on its device. config: as JSON has it."""
    family, capability = families.named(found.family), tuple(map(int, found.capability.split(".")))
    return Kernel(
        family, product, Gpu(num_sms, found.device_kind, GENERATIONS[capability]), family.config.from_json(config)
    )


def kernels(found: Record, files: dict[str, list[Row]]) -> list[Kernel]:
    """A kernel for each code path and epilogue that was found right, as it ran: the first one of each."""
    first: dict[tuple[str, str], Kernel] = {}
    for row, facts in _of_kernels(of_family(found.family, files)):
        if row["status"] in RIGHT and (facts.code_path, facts.epilogue) not in first:
            ran = kernel_of(found, Product.from_json(row["product"]), row["config"], row["num_sms"])
            first[facts.code_path, facts.epilogue] = ran
    return list(first.values())


def _device(files: dict[str, list[Row]]) -> tuple[Row, str]:
    """The device row of the last file, all of whose fields but the choice are alike in all, and the date of the last run."""
    rows = [(name, row) for name, rows in files.items() for row in rows if row["kind"] == "device"]
    if missing := files.keys() - {name for name, _ in rows}:
        raise ValueError(f"{', '.join(sorted(missing))}: no row says on which device the run was")
    if dry := [name for name, row in rows if row["platform"] != "gpu"]:
        raise ValueError(f"{dry[0]}: rows of a dry run prove nothing about a GPU")
    (first, device), *others = rows
    for name, row in others:
        for field in DEVICE:
            if row[field] != device[field]:
                raise ValueError(
                    f"{field} is {row[field]!r} in {name} and {device[field]!r} in {first}: record them apart"
                )
    return rows[-1][1], max(row["date"] for _, row in rows)


def _of_kernels(files: dict[str, list[Row]]) -> Iterator[tuple[Row, Facts]]:
    for name, rows in files.items():
        for i, row in enumerate(rows):
            if row.get("facts") is not None:
                yield row, Facts.from_json(row["facts"], f"{name}, row {i + 1}, facts")


def with_programs(found: Record, ran: Iterable[Kernel]) -> Record:
    """The record with the digests of these kernels, compiled from the present source, which must be the one that ran."""
    code = digest.code(found.family)
    if not found.holds_for(jax.__version__, code):
        (source,) = found.sources
        raise ValueError(
            f"the rows are of JAX {source.jax} and kernels {source.code}, here are {jax.__version__} and {code}: check out "
            f"the commit that ran, make the record there, then renew it here with python -m bench.renew"
        )
    programs = tuple(
        Program(kernel.product, kernel.config.to_json(), kernel.gpu.num_sms, instructions.digest(kernel))
        for kernel in tqdm(list(ran), unit="kernel", disable=None)
    )
    return dataclasses.replace(found, programs=programs)


def evidence_name(path: pathlib.Path) -> str:
    """A file's path in the repository. Raises ValueError for one that is not among the committed results."""
    if not path.resolve().is_relative_to(RESULTS):
        raise ValueError(f"{path} must lie below bench/results: a shipped record names rows that are committed")
    return path.resolve().relative_to(ROOT).as_posix()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.record", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "rows", nargs="+", type=pathlib.Path, help="files below bench/results, of one device and source"
    )
    args = parser.parse_args(argv)
    try:
        files = {evidence_name(path): read(path) for path in args.rows}
        records = [with_programs(found, kernels(found, files)) for found in derived(files)]
    except ValueError as error:
        print(f"bench.record: {error}", file=sys.stderr)
        return 1
    for found in records:
        path = record.SHIPPED / found.family / record.file_name(found.device_kind)
        record.save(found, path)
        print(f"{path}: {len(found.checks)} code paths, {len(found.timings)} timings, {len(found.programs)} kernels")
        for code_path, by_epilogue in found.checks.items():
            for epilogue in (name for name, right in by_epilogue.items() if not right):
                print(f"  WRONG: {code_path}, {epilogue}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

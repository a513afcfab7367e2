"""The table of tuned tiles from rows: python -m bench.tune --tiles bench/results/h100/tune-*.jsonl

A product of these rows gets a row in kernels/tiles.json where its fastest configuration gains 3% on what the model, as it is
now, chooses for the device; where it does not, an earlier row of it is taken out. Other products and devices stay.
"""

import argparse
import pathlib
import sys
from typing import Any, NamedTuple

from pallas_conv.kernels import choice, digest, families, tuned
from pallas_conv.kernels.family import Family
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.spec import Product

from ..runner import Row
from ..runner.log import by_family, family_of, read
from .measure import GAIN


class Timed(NamedTuple):
    """A product on a device, and the microseconds of a family's configurations."""

    gpu: Gpu
    family: Family
    product: Product
    us: dict[Any, float]

    @property
    def key(self) -> tuple[str, str, Product]:
        return str(self.gpu.kind), self.family.name, self.product


def timed(files: dict[str, list[Row]]) -> list[Timed]:
    """The times that rows hold of products, by the names of their files; the last of each.

    Raises ValueError for rows that say nothing of these kernels on a GPU.
    """
    found: dict[tuple[str, str, Product], Timed] = {}
    for name, rows in files.items():
        device = _device(name, rows)
        for row in rows:
            if row["kind"] == "tuned" and row["status"] == "ok" and row["source"] == "cupti":
                it = _timed(f"{name}, {row['name']}", row, device)
                found[it.key] = it
    return list(found.values())


def _timed(where: str, row: Row, device: Row) -> Timed:
    family, product = families.named(family_of(row)), Product.from_json(row["product"], where)
    ran, todays = by_family(device["code"]).get(family.name), digest.code(family.name)
    if ran != todays:
        raise ValueError(f"{where}: rows of other kernels, {ran}, not of these, {todays}")
    us = {family.config.from_json(it["config"], where): it["us"] for it in row["timed"]}
    return Timed(Gpu(row["num_sms"], device["device_kind"]), family, product, us)


def _device(name: str, rows: list[Row]) -> Row:
    """The row of the device of a run. Raises ValueError if it was no GPU."""
    devices = [row for row in rows if row["kind"] == "device"]
    if not devices:
        raise ValueError(f"{name}: no row says on which device the run was")
    if any(row["platform"] != "gpu" for row in devices):
        raise ValueError(f"{name}: rows of a dry run tell nothing of speed")
    return devices[0]


def row(it: Timed) -> tuned.Row | None:
    """The table's row for a product. None where the model's choice is as good, or was not timed and so may be."""
    fastest = min(it.us, key=it.us.__getitem__)
    model = choice.best(it.family, it.family.problem(it.product), it.gpu)
    if it.us.get(model, float("inf")) < GAIN * it.us[fastest]:
        return None
    return tuned.Row(str(it.gpu.kind), it.gpu.num_sms, it.family.name, it.product, fastest)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.tune --tiles", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", nargs="+", type=pathlib.Path, help="files of rows")
    parser.add_argument("--table", type=pathlib.Path, default=tuned.TILES, help="to write to (default: %(default)s)")
    args = parser.parse_args(words)
    try:
        found = timed({path.name: read(path) for path in args.rows})
        if not found:
            raise ValueError("no product was timed by CUPTI in these rows")
    except ValueError as error:
        print(f"bench.tune: {error}", file=sys.stderr)
        return 1
    seen = {it.key for it in found}
    kept = [r for r in tuned.load_tiles(args.table) if (r.device_kind, r.family, r.product) not in seen]
    new = [r for it in found if (r := row(it))]
    tuned.write_tiles([*kept, *new], args.table)
    print(f"{args.table}: {len(new)} of {len(found)} products tuned, {len(kept)} rows as they were")
    return 0

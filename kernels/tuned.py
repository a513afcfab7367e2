"""The table of tuned tiles: configurations found fastest on a device, which go before the model's choice.

`tiles.json` beside this file is a list of rows, each with the fields of `Row`. It is empty until a device was tuned.
"""

import functools
import json
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from pallas_conv import strict
from pallas_conv.spec import Product

from . import families
from .family import Family
from .gpu import Gpu

TILES = pathlib.Path(__file__).with_name("tiles.json")


class Row(NamedTuple):
    """A product's fastest configuration on a device.

    device_kind  as JAX names it: "NVIDIA H100 80GB HBM3"
    num_sms      its streaming multiprocessors
    family       the family of kernels, by name
    """

    device_kind: str
    num_sms: int
    family: str
    product: Product
    config: Any


def look_up(family: Family, product: Product, gpu: Gpu) -> Any:
    """The tuned configuration of this kind of device, or None.

    A tuned device has no row where the model's choice was as good, so only its own rows count for it. A device that was not
    tuned uses the rows of another of its generation with as many SMs: of the one that has most rows.
    """
    tables = _by_device(family.name)
    alike = [table for table in tables.values() if any(gpu.like(*device) for device in _devices(table))]
    row = tables.get(gpu.kind or "", max(alike, key=len, default={})).get(product)
    return row.config if row else None


def load_tiles(path: pathlib.Path) -> tuple[Row, ...]:
    """The rows of a table. Raises ValueError, naming the row, for one that is malformed, not served or not legal."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, list):
        raise ValueError(f"{path.name} must be a JSON array of rows, not {type(data).__name__}")
    rows = tuple(_parse(row, f"{path.name}, row {i}") for i, row in enumerate(data))
    if len(distinct := {(row.device_kind, row.family, row.product): row for row in rows}) < len(rows):
        twice = next(i for i, row in enumerate(rows) if distinct[row.device_kind, row.family, row.product] is not row)
        raise ValueError(f"{path.name}, row {twice}: another row is of the same product and device: keep one of them")
    return rows


def write_tiles(rows: Iterable[Row], path: pathlib.Path) -> None:
    """Write a table, a row a line. Of several rows of one product and device the last one stays."""
    lines = {(row.device_kind, row.family, row.product): json.dumps(strict.to_json(row)) for row in rows}
    whole = path.with_suffix(".tmp")
    whole.write_text("[" + ",".join(f"\n{line}" for line in sorted(lines.values())) + "\n]\n", encoding="utf-8")
    whole.replace(path)  # nobody reads half of one


@functools.cache
def _by_device(family: str) -> dict[str, dict[Product, Row]]:
    found: dict[str, dict[Product, Row]] = {}
    for row in load_tiles(TILES):
        if row.family == family:
            found.setdefault(row.device_kind, {})[row.product] = row
    return found


def _devices(table: dict[Product, Row]) -> set[tuple[str, int]]:
    """The kind of the device that a table is of, with its SMs."""
    return {(row.device_kind, row.num_sms) for row in table.values()}


def _parse(data: object, where: str) -> Row:
    row = strict.parse(Row, data, where)
    try:
        family = families.named(row.family)
    except KeyError:
        raise ValueError(f"{where}: there is no family of kernels named {row.family!r}") from None
    if reasons := family.reasons(row.product):
        raise ValueError(f"{where}: no kernel serves the product: {reasons[0]}")
    config = family.config.from_json(row.config, f"{where}.config")
    if why := family.illegal(family.problem(row.product), config, Gpu(row.num_sms)):
        raise ValueError(f"{where}: the configuration is not legal: {why}")
    return row._replace(config=config)

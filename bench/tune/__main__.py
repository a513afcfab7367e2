"""The command: tunes, or turns rows into the table of tiles."""

import argparse
import pathlib
import re
import sys

from pallas_conv.doctor import plan
from pallas_conv.spec import Product
from pallas_conv.target import resolve
from pallas_conv.wanted import wanted

from .. import correctness, runner, tune
from ..runner import Row, Step, device, log, summary
from . import measure, tiles
from .differing import MOST
from .measure import Device, Wanted

ALONE = "--tiles"
DRY = "small_(3x3|1d_causal)$"


def steps(options: argparse.Namespace) -> list[Step]:
    device = _device(options.dry_run, options.most)
    done = _done(options.resume)
    chosen = [it for it in _wanted(options, device) if it.product not in done]
    return [step for it in chosen for step in measure.steps(it, device)]


def _device(dry: bool, most: int) -> Device:
    return Device(resolve(None), runner.gpu(dry), dry, min(most, 2) if dry else most)


def _wanted(options: argparse.Namespace, device: Device) -> list[Wanted]:
    """The products, in order, each once."""
    groups = ("suite", "networks") if options.products == "wanted" else ("suite",)
    rows = [(group, Wanted(r.name, r.product)) for group in groups for r in plan.rows(wanted()) if r.group == group]
    if options.dry_run:
        small = [c for c in correctness.SMALL if re.search(DRY, c.name)]
        rows = [("suite", Wanted(f"{c.name}/f", c.products()["f"])) for c in small]
    found: dict[Product, Wanted] = {}
    for group in groups:
        for it in measure.ordered((it for g, it in rows if g == group), device):
            if re.search(options.cases, it.name):
                found.setdefault(it.product, it)
    return list(found.values())


def _done(files: str) -> set[Product]:
    """Products that earlier rows of the same kernels have timed."""
    paths = [pathlib.Path(name) for name in files.split(",") if name]
    if missing := [str(path) for path in paths if not path.exists()]:
        raise ValueError(f"there is no {', '.join(missing)}")
    rows = [row for path in paths for row in log.read(path)]
    todays = log.digests(device.code())
    if other := {log.digests(r["code"]) for r in rows if r["kind"] == "device"} - {todays}:
        raise ValueError(f"--resume {files}: rows of other kernels, {sorted(other)}, not of these, {todays}")
    timed = [r for r in rows if r["kind"] == "tuned" and r["status"] == "ok"]
    return {Product.from_json(r["product"]) for r in timed}


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--products",
        choices=("suite", "wanted"),
        default="suite",
        help="the suite's, or the networks', too (%(default)s)",
    )
    add("--cases", type=runner.checked(re.compile), default="", help="regular expression: products by name (all)")
    add(
        "--most",
        type=int,
        default=MOST,
        choices=range(1, MOST + 1),
        help="configurations of a product to time; 1: today's choice alone, which is all that a record needs (%(default)s)",
    )
    add(
        "--resume",
        type=runner.checked(_done),
        default="",
        help="files of rows, comma-separated, whose products are done",
    )


def told(rows: list[Row]) -> str:
    """A line a product, those that gained most first, then what every summary ends with."""
    timed = [r for r in rows if r["kind"] == "tuned" and r["status"] == "ok"]
    lines = [_line(r) for r in sorted(timed, key=lambda r: -r.get("gain", 1))]
    head = [f"{'product':36} {'stock us':>9} {'lax us':>9} {'today us':>9} {'kept us':>9} {'gain':>6}  kept"]
    return summary.fitting(head + lines if lines else ["nothing was timed"], summary.ending(rows))


def _line(row: Row) -> str:
    us = [row["stock_us"], row["lax_us"], row.get("today_us", float("nan")), row["kernel_us"]]
    times = " ".join(f"{value:9.1f}" for value in us)
    kept = "as today" if row["config"] == row.get("today") else row["facts"]["code_path"]
    return f"{row['name'][:36]:36} {times} {row.get('gain', float('nan')):6.3f}  {kept}"


SCRIPT = runner.Script("bench.tune", tune.__doc__ or "", steps, told, arguments)

if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(tiles.main(words[1:]) if words[:1] == [ALONE] else runner.main(SCRIPT))

"""Constants of the cost model from rows: python -m bench.micro --constants bench/results/h100/micro-*.jsonl

Writes the device's entry in kernels/chips.json, with the rows' files as its evidence; an entry of the same kind of device
is replaced. What was not measured stays nominal, and is named. Rows of a dry run, of several devices, of another version of
these questions, and times by anything but CUPTI or the SMs' own counters are refused or left out.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pallas_conv.kernels import chips
from pallas_conv.kernels.chips import Chip, Measured, Table
from pallas_conv.kernels.cost import POWER_SOFTNESS
from pallas_conv.kernels.gpu import H100_SMS

from ..runner import Row
from .measure import LONG, launch_names, sustained_names
from .question import Sizes
from .questions import DRIFT_STEPS, TENSOR_FLOPS, questions

SOURCES = ("cupti", "globaltimer", "chain")
KEPT = 0.85  # of the rate of an array that L2 holds with ease: the largest one that reaches it is what L2 keeps
MOST_POWER = 2  # times the rate that was reached, where power hardly limits it


class Missing(Exception):
    """A row that a constant needs."""


class Found(NamedTuple):
    """Rows with values by their names, and the nominal chip for what they do not tell."""

    rows: dict[str, Row]
    nominal: Chip
    sms: int

    def fact(self, name: str, field: str) -> float:
        if name not in self.rows:
            raise Missing(name)
        return float(self.rows[name][field])

    def value(self, name: str) -> float:
        return self.fact(name, "value")

    def constant(self, name: str) -> float:
        """A constant as it was measured, else the nominal one."""
        try:
            return DERIVED[name](self)
        except (KeyError, Missing):
            return float(getattr(self.nominal, name))

    def tflops(self, part: float, itemsize: int) -> float:
        """TFLOP/s at this part of the peak of tensor cores at full clock."""
        return part * TENSOR_FLOPS * 2 / itemsize * self.sms * self.constant("clock") / 1e3


# ------------------------------------------------------------ what is derived how

NARROW = "wgmma_bf16_1x64x32"  # bound by shared memory


def _power(kind: str, itemsize: int) -> Callable[[Found], float]:
    """The power cap: the soft limit that takes the rate of products without one to the rate that a long load reached."""

    def cap(found: Found) -> float:
        reached = found.value(f"sustained_rate_{kind}")
        free = found.tflops(found.value(f"wgmma_{kind}_2x128x128_beside_tma"), itemsize)
        inverse = lambda rate: rate**-POWER_SOFTNESS
        return max(inverse(reached) - inverse(free), inverse(MOST_POWER * reached)) ** (-1 / POWER_SOFTNESS)

    return cap


def _tensor_efficiency(found: Found) -> float:
    sides = ("1x64x256", "1x64x128", "2x64x256", "2x64x128", "2x128x128")
    return min(1.0, max(found.value(f"wgmma_bf16_{side}") for side in sides))


def _smem_clk(found: Found) -> float:
    return found.fact(NARROW, "read_bytes") / found.fact(NARROW, "clocks")


def _smem_writes(found: Found) -> float:
    """The clocks that writes cost, as reads of so many bytes would."""
    alone, beside = (
        {f: found.fact(name, f) for f in ("clocks", "written_bytes")} for name in (NARROW, f"{NARROW}_beside_tma")
    )
    cost = (beside["clocks"] - alone["clocks"]) * _smem_clk(found)
    return _part(cost / (beside["written_bytes"] - alone["written_bytes"]))


def _l2_merge(found: Found) -> float:
    """The part of shared lines that L2 reads only once, by the slower of lines that all SMs share and lines that four do."""
    shared = min(found.value("l2_shared"), found.value("l2_shared_by_4"))
    return _part(1 - found.value("l2_distinct") / shared)


def _l2_mb(found: Found) -> float:
    least = KEPT * found.value("l2_distinct")
    sizes = [name for name in found.rows if name.startswith("l2_of_")]
    if not sizes:
        raise Missing("l2_of_*_mib")
    return max([16.0, *(found.fact(name, "mib") for name in sizes if found.value(name) >= least)])


def _latency(name: str) -> Callable[[Found], float]:
    """The latency of a load alone, without its bytes, its issue and the waking of what waits: the model counts these."""

    def latency(found: Found) -> float:
        transfer = found.fact(name, "nbytes") / found.constant("port_clk")
        return found.value(name) - transfer - found.constant("issue_copy") - found.constant("wake")

    return latency


def _issue_copy(found: Found) -> float:
    return (found.value("issue_4") - found.value("issue_1")) / 3


def _chunk_element(found: Found) -> float:
    more = found.fact("chunk_128", "elements") - found.fact("chunk_64", "elements")
    return (found.value("chunk_128") - found.value("chunk_64")) / more


def _beyond_issue(name: str) -> Callable[[Found], float]:
    """Clocks of a chunk of 64 pixels, without those of its elements."""
    return lambda found: _positive(found.value(name) - found.fact("chunk_64", "elements") * _chunk_element(found))


def _in_clocks(name: str) -> Callable[[Found], float]:
    return lambda found: found.value(name) * found.constant("clock") * 1e3


def _part(value: float) -> float:
    return min(1.0, max(0.0, value))


def _positive(value: float) -> float:
    return max(0.0, value)


DERIVED: dict[str, Callable[[Found], float]] = {
    "clock": lambda found: found.fact("latency_l2", "gigahertz"),
    "power_cap": _power("bf16", 2),
    "power_cap_tf32": _power("tf32", 4),
    "tensor_efficiency": _tensor_efficiency,
    "smem_clk": _smem_clk,
    "smem_writes": _smem_writes,
    "l2_clk": lambda found: found.value("l2_distinct") * found.sms / H100_SMS,
    "l2_merge": _l2_merge,
    "port_clk": lambda found: max(found.value("l2_one_sm"), found.value("l2_multicast")),
    "tma_rows": lambda found: max(found.value(f"rows_{n}_bytes") for n in (128, 64, 32)),
    "dram_tbs": lambda found: found.value("dram"),
    "dram_sm_clk": lambda found: found.value("dram_one_sm"),
    "l2_mb": _l2_mb,
    "lat_l2": _latency("latency_l2"),
    "lat_dram": _latency("latency_dram"),
    "release": lambda found: _positive(found.value("hand_over") - found.constant("wake")),
    "release_remote": lambda found: _positive(found.value("hand_over_in_cluster") - found.constant("wake")),
    "issue_step": lambda found: _positive(found.value("issue_1") - _issue_copy(found)),
    "issue_copy": _issue_copy,
    "chunk_fixed": _beyond_issue("chunk_64"),
    "chunk_element": _chunk_element,
    "store_read": _beyond_issue("chunk_64_one_buffer"),
    "store_ack": _beyond_issue("chunk_64_done"),
    "launch": _in_clocks("launch"),
    "xla_pass": _in_clocks("launch_next_xla"),
    "image_dram": lambda found: _part(found.value("boxes_images") / found.value("boxes_spatial")),
    "image_latency": lambda found: _positive(found.value("latency_images") - found.value("latency_spatial")),
}


def derived(found: Found) -> tuple[dict[str, float], dict[str, str]]:
    """The constants that rows tell; of the others the row that is missing, or why they stay nominal."""
    told: dict[str, float] = {}
    missing = dict.fromkeys(Chip.__annotations__, "not measured")
    for name, derive in DERIVED.items():
        try:
            told[name] = derive(found)
            del missing[name]
        except Missing as row:
            missing[name] = f"no row {row}"
    return told, missing


# ------------------------------------------------------------ rows


def of(rows: Iterable[Row], sms: int, table: Table) -> Found:
    """The rows that have a value by a clock that is good enough; the last of a name."""
    good = [r for r in rows if r["kind"] == "micro" and r["status"] == "ok" and r.get("source") in SOURCES]
    return Found({r["name"]: r for r in good if "value" in r}, table.chip({}, "nominal"), sms)


def measured(files: dict[str, list[Row]], table: Table, without: Iterable[str] = ()) -> tuple[Measured, dict[str, str]]:
    """The entry that rows tell, by the names of their files, and why other constants stay nominal. Raises ValueError."""
    kind, sms = _device(files)
    rows = [row for rows in files.values() for row in rows]
    if unknown := {r["name"] for r in rows if r["kind"] == "micro" and "value" in r} - names():
        raise ValueError(f"rows of another version of bench.micro: {sorted(unknown)}")
    told, missing = derived(of(rows, sms, table))
    if no_constants := set(without) - told.keys():
        raise ValueError(f"--without {sorted(no_constants)}: no such constants were measured; those are {sorted(told)}")
    missing |= dict.fromkeys(without, "left out")
    told = {name: float(f"{value:.4g}") for name, value in told.items() if name not in without}
    if not told:
        raise ValueError(f"nothing was measured in {', '.join(files)}")
    table.chip(told, ", ".join(files))  # which refuses what no chip can be
    return Measured(kind, sms, told, " ".join(files)), missing


def names() -> set[str]:
    """Names of all rows with values."""
    runs = {run.name for question in questions(Sizes(H100_SMS, False)) for run in question.runs}
    return runs | launch_names() | {name for it in LONG for name in sustained_names(it)}


def _device(files: dict[str, list[Row]]) -> tuple[str, int]:
    """Kind of the device, and number of its SMs."""
    found = {name: [r for r in rows if r["kind"] == "device"] for name, rows in files.items()}
    if silent := [name for name, rows in found.items() if not rows]:
        raise ValueError(f"{silent[0]}: no row says on which device the run was")
    rows = [row for rows in found.values() for row in rows]
    if any(row["platform"] != "gpu" for row in rows):
        raise ValueError("rows of a dry run measure nothing")
    kinds = {(row["device_kind"], row["sms"]) for row in rows}
    if len(kinds) > 1:
        raise ValueError(f"rows of several devices: {sorted(kinds)}")
    return kinds.pop()


# ------------------------------------------------------------ to read


def table(rows: list[Row]) -> list[str]:
    """Lines with the values that were measured, then the constants beside the nominal ones."""
    known = chips.load(chips.CHIPS)
    sms = next((r["sms"] for r in rows if r["kind"] == "device" and r.get("sms")), H100_SMS)
    found = of(rows, sms, known)
    if not found.rows:
        return ["nothing was timed"]
    told, missing = derived(found)
    lines = [f"{name:36} {row['value']:10.4g} {row['unit']}" for name, row in found.rows.items()]
    lines += ["", f"{'constant':20} {'measured':>10} {'nominal':>10}"]
    lines += [f"{name:20} {value:10.4g} {getattr(found.nominal, name):10.4g}" for name, value in told.items()]
    return [*lines, f"nominal: {', '.join(missing)}", *_notes(found)]


def _notes(found: Found) -> list[str]:
    """Notes about measurements that are no constants."""
    notes = []
    for note in (_two_blocks, _drift):
        try:
            notes.append(note(found))
        except Missing as row:
            notes.append(f"no row {row}")
    return notes


def _two_blocks(found: Found) -> str:
    ratio = found.value("blocks_two_an_sm") / found.value("blocks_one_an_sm")
    return f"two blocks an SM take {ratio:.2f} times as long as one: they {'share it' if ratio < 1.5 else 'take turns'}"


def _drift(found: Found) -> str:
    """The part of an epilogue that a deep ring hides: cost.DRIFT."""
    hidden = found.value("tile_with_2_slots") - found.value("tile_with_8_slots")
    seen = found.value("tile_with_2_slots") - DRIFT_STEPS * found.fact("wgmma_bf16_2x128x128", "clocks")
    return f"eight slots hide {hidden / seen:.0%} of an epilogue of {seen:.0f} clk that two slots do not"


# ------------------------------------------------------------ the command


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench.micro --constants", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("rows", nargs="+", type=pathlib.Path, help="files below bench/results, of one device")
    add("--without", default="", help="constants that shall stay nominal, comma-separated")
    add("--chips", type=pathlib.Path, default=chips.CHIPS, help="the table to write to (default: %(default)s)")
    args = parser.parse_args(words)
    from .. import record  # needs what a machine with a GPU may lack

    try:
        known = chips.load(args.chips)
        files = {record.evidence_name(path): record.read(path) for path in args.rows}
        entry, missing = measured(files, known, list(filter(None, args.without.split(","))))
    except ValueError as error:
        print(f"bench.micro: {error}", file=sys.stderr)
        return 1
    others = tuple(e for e in known.measured if e.device_kind != entry.device_kind)
    chips.write(known._replace(measured=(*others, entry)), args.chips)
    print(f"{args.chips}: {len(entry.constants)} constants of {entry.device_kind}")
    for name, why in missing.items():
        print(f"  {name} stays nominal: {why}")
    return 0

"""Chips for the cost model: constants as data, from `chips.json` beside this file.

nominal    the value of every constant of `Chip`, and its source: [P] published measurement or specification,
           [S] read in source or in the compiled kernel, [D] derived from published ones, [J] judged
plausible  variants of the nominal chip, as the constants that differ. Until a device is measured, a tile must be good on
           these, too
measured   devices, each with "device_kind" and "num_sms", with the "constants" that a run measured, and with the run
           as "evidence". On its device a row replaces the nominal chip and the plausible ones. A constant that it did not
           measure is nominal
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import NamedTuple

from pallas_conv import strict

from .gpu import Gpu

CHIPS = pathlib.Path(__file__).with_name("chips.json")
FRACTIONS = ("tensor_efficiency", "smem_writes", "l2_merge", "image_dram")
RATES = (
    "clock", "power_cap", "power_cap_tf32", "flops_clk", "tensor_efficiency", "smem_clk", "l2_clk", "port_clk", "tma_rows",
    "dram_tbs", "dram_sm_clk", "l2_mb", "image_dram",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chip:
    """Constants of the cost model; clk is a clock of an SM, B/clk are of one SM if all 132 ask at once.

    clock                GHz
    power_cap            TFLOP/s of 16-bit operands that power allows, approached softly
    power_cap_tf32       the same as TF32
    flops_clk            flop/clk of an SM's tensor cores on 16-bit operands; half of it as TF32
    tensor_efficiency    part of that which wgmma reaches
    smem_clk             B/clk of shared memory that an SM's wgmma read
    smem_writes          part of the bytes written to shared memory that take time from reads
    l2_clk               B/clk of distinct lines from L2
    l2_merge             part of the bytes that several SMs ask for at once which L2 reads but once
    port_clk             B/clk into the shared memory of one SM
    tma_rows             rows of boxes a clk that an SM's TMA makes
    dram_tbs             TB/s of global memory
    dram_sm_clk          B/clk of global memory that one SM can take alone
    l2_mb                MiB that L2 keeps for reuse
    lat_l2               clk of a TMA copy from issue to full barrier, from L2
    lat_dram             the same from global memory
    wake                 clk from a barrier's completion to the waiting warpgroup's next instruction
    release              clk of an arrival on an empty barrier
    release_remote       the same in the other block of a cluster
    cluster_skew         clk by which the blocks of a cluster miss each other, a step
    issue_step           clk of the producer a step
    issue_copy           clk of the producer a copy
    issue_tile_producer  clk of the producer a tile
    issue_tile_consumer  clk of a consumer a tile
    issue_mma            clk to issue the products of a tap
    mma_drain            clk from the last product to its registers
    chunk_fixed          clk of a chunk of an epilogue, whatever its size
    chunk_element        issue clk of a chunk an element of a thread
    store_read           clk until a TMA store has read its buffer
    store_ack            clk until a store is done
    launch               clk of an empty kernel
    xla_pass             clk of one more kernel, beside its bytes
    image_dram           part of global memory's rate that boxes over images get
    image_latency        clk that they take longer
    """

    clock: float
    power_cap: float
    power_cap_tf32: float
    flops_clk: float
    tensor_efficiency: float
    smem_clk: float
    smem_writes: float
    l2_clk: float
    l2_merge: float
    port_clk: float
    tma_rows: float
    dram_tbs: float
    dram_sm_clk: float
    l2_mb: float
    lat_l2: float
    lat_dram: float
    wake: float
    release: float
    release_remote: float
    cluster_skew: float
    issue_step: float
    issue_copy: float
    issue_tile_producer: float
    issue_tile_consumer: float
    issue_mma: float
    mma_drain: float
    chunk_fixed: float
    chunk_element: float
    store_read: float
    store_ack: float
    launch: float
    xla_pass: float
    image_dram: float
    image_latency: float

    def microseconds(self, clocks: float) -> float:
        return clocks / (self.clock * 1e3)


class Constant(NamedTuple):
    value: float
    source: str


class Measured(NamedTuple):
    """One measured device: the constants that a run found, and the run."""

    device_kind: str
    num_sms: int
    constants: dict[str, float]
    evidence: str


class Table(NamedTuple):
    """The form of `chips.json`."""

    nominal: dict[str, Constant]
    plausible: dict[str, dict[str, float]]
    measured: tuple[Measured, ...]

    def chip(self, changes: dict[str, float], where: str) -> Chip:
        """The nominal chip with some constants changed."""
        values = {name: constant.value for name, constant in self.nominal.items()} | changes
        if impossible := {name: v for name, v in values.items() if not _possible(name, v)}:
            raise ValueError(
                f"{where}: constants must be finite, rates above zero, and parts at most one: {impossible}"
            )
        return strict.parse(Chip, values, where)


def _possible(name: str, value: float) -> bool:
    return (
        math.isfinite(value) and (value > 0 if name in RATES else value >= 0) and (name not in FRACTIONS or value <= 1)
    )


@functools.cache
def chips(gpu: Gpu | None = None) -> tuple[Chip, ...]:
    """The chips on which a tile must be good, the nominal one first.

    A measured GPU is one chip, and so is a GPU with as many SMs as a measured one of its generation. Any other GPU, or None,
    may be the nominal chip or one of the plausible ones.
    """
    known = load(CHIPS)
    own = [i for i, found in enumerate(known.measured) if gpu and found.device_kind == gpu.kind]
    alike = [i for i, found in enumerate(known.measured) if gpu and gpu.like(found.device_kind, found.num_sms)]
    for i in (*own, *alike):
        return (known.chip(known.measured[i].constants, f"{CHIPS.name}: measured[{i}]"),)
    guesses = {"nominal": {}, **known.plausible}
    return tuple(known.chip(changes, f"{CHIPS.name}: {name}") for name, changes in guesses.items())


def load(path: pathlib.Path) -> Table:
    """Load the table of constants. Raises ValueError, naming the field, for anything that is not of its form."""
    return strict.parse(Table, json.loads(path.read_text(encoding="utf-8")), path.name)


def write(table: Table, path: pathlib.Path) -> None:
    """Write a table of constants, one a line."""
    objects = lambda items: ",".join(f"\n  {json.dumps(name)}: {json.dumps(item)}" for name, item in items.items())
    form = strict.to_json(table)
    measured = ",".join(f"\n  {json.dumps(row)}" for row in form["measured"])
    parts = f' "nominal": {{{objects(form["nominal"])}\n }}', f' "plausible": {{{objects(form["plausible"])}\n }}'
    whole = path.with_suffix(".tmp")
    whole.write_text(
        "{\n" + ",\n".join([*parts, f' "measured": [{measured}{measured and "\n "}]']) + "\n}\n", encoding="utf-8"
    )
    whole.replace(path)  # nobody reads half of them

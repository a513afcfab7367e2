"""Layers that XLA treats badly on a GPU: the program of stock equinox beside that of `auto`, as facts."""

import dataclasses
import itertools
from typing import Any

import jax

import pallas_conv as pc
from workloads.cases import OPERANDS, Case, suite
from workloads.layers import random_layers

from . import aot, hlo

TARGETS = ("a100", "b200", "h100")
DTYPES = ("bfloat16", "float16", "float32")


def layers(count: int = 0, seed: int = 0) -> list[Case]:
    """Layers of the suite, or `count` random ones in turn in every dtype, that XLA is known to treat badly on a GPU."""
    if not count:
        return [case for case in suite() if _treated_badly(case)]
    found = list(itertools.islice(filter(_treated_badly, random_layers(20 * count, seed)), count))
    return [dataclasses.replace(case, dtype=dtype) for case, dtype in zip(found, itertools.cycle(DTYPES), strict=False)]


def _treated_badly(case: Case) -> bool:
    return case.transposed or case.ndim == 3 or max(case.dilation) > 1


def measure(case: Case, direction: str, target: str, kernels: bool = False) -> dict[str, Any]:
    """One row: the program of stock equinox, that of the converted layer, and that with kernels wherever one serves."""
    operands = [jax.ShapeDtypeStruct(case.shapes()[name], case.dtype) for name in OPERANDS[direction]]
    ours = case.stock(direction, convert=pc.convert)
    products = [f"{p.product.role}: {p.formulation}" for p in pc.explain(jax.jit(ours), *operands, device=target)]
    row = {"layer": case.name, "direction": direction, "useful_flops": case.flops(direction), "products": products}
    for name, f in (("stock", case.stock(direction)), ("auto", ours)):
        row[name] = _facts(aot.compile_for(target, f, *operands))
    if kernels:
        with pc.implementation(("mosaic", "auto")):
            row["mosaic"] = _facts(aot.compile_for(target, ours, *operands))
    return row


def _facts(compiled: jax.stages.Compiled) -> dict[str, Any]:
    program = hlo.read(compiled.as_text())
    return {
        "flops": program.flops,
        "kernels": program.kernels,
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "calls": [dataclasses.asdict(call) for call in program.calls],
    }

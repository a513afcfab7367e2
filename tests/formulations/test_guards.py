"""What the chosen programs cost beside time: memory at full sizes, compile time, and nothing of it in "xla"."""

import dataclasses
import functools
import time

import jax
import numpy as np
import pytest

from bench.cases import suite
from bench.formulations import CPU
from pallas_conv import formulations
from pallas_conv.formulations.rules import SPARE_MEMORY
from pallas_conv.spec import Product
from pallas_conv.trilinear import BILINEAR, Op

PRODUCTS = [
    pytest.param(dataclasses.replace(p, compute_dtype="float32", out_dtype="float32"), id=f"{case.name}-{p.role}")
    for case in suite()
    for p in case.products().values()
]


def compiled(name: str, product: Product) -> tuple[jax.stages.Compiled, float]:
    """The program of a product, from shapes alone, and the seconds its compilation took."""
    spec, lead = product.spec, [product.models] * (product.models is not None)
    shapes = {
        "x": (*lead, product.batch, product.in_channels, *spec.in_spatial),
        "ct": (*lead, product.batch, product.out_channels, *spec.out_spatial),
        "w": (*lead, product.out_channels, product.in_channels // spec.groups, *spec.kernel_spatial),
    }
    op = Op(spec, np.dtype("float32"), np.dtype("float32"), models=len(lead))
    run = functools.partial(
        formulations.contract, name, product.role, op=op, dtype=np.dtype("float32"), wide_sums=True,
        cache=formulations.cache(CPU),
    )  # fmt: skip
    args = [jax.ShapeDtypeStruct(shapes[n], "float32") for n in BILINEAR[product.role][0]]
    lowered = jax.jit(run).lower(*args)
    start = time.perf_counter()
    program = lowered.compile()
    return program, time.perf_counter() - start


@pytest.mark.parametrize("product", PRODUCTS)
def test_temporary_memory_at_full_size(product):
    name, _ = formulations.choose(product, CPU)
    if name == formulations.STOCK:
        return  # nothing to compare
    ours, stock = (compiled(n, product)[0].memory_analysis().temp_size_in_bytes for n in (name, formulations.STOCK))
    assert ours <= max(stock, SPARE_MEMORY), (name, ours / 1e6, stock / 1e6)

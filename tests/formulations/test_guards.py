"""What the chosen programs cost beside time: temporary memory at full sizes, and length."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bench.cases import suite
from bench.formulations import CPU
from pallas_conv import formulations
from pallas_conv.formulations import catalogue
from pallas_conv.formulations.cpu import SPARE_MEMORY
from pallas_conv.spec import Product
from pallas_conv.trilinear import BILINEAR, Op

PRODUCTS = [
    pytest.param(dataclasses.replace(p, compute_dtype="float32", out_dtype="float32"), id=f"{case.name}-{p.role}")
    for case in suite()
    for p in case.products().values()
]


def compiled(name: str, product: Product) -> jax.stages.Compiled:
    """The program of a product, from shapes alone."""
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
    return jax.jit(run).lower(*args).compile()


# Run in blocks of images, these need what is given, and XLA copies the parameters of a program into a loop that reads them.
# Of what another operation computed, as in a network, it makes no copy.
COPIED_INTO_A_LOOP = {
    "resnext_g32-wgrad", "unet_up-wgrad", "unet_up_f32-wgrad", "unet_up_f16-wgrad", "stylegan_up-wgrad", "mamba_k4-fprop",
    "mamba_k4-dgrad", "mamba_k4-wgrad", "mamba_k4_f32-fprop", "mamba_k4_f32-dgrad", "mamba_k4_f32-wgrad", "x3d_dw-wgrad",
    "wavenet_d512-wgrad",
}  # fmt: skip


@pytest.mark.parametrize("product", PRODUCTS)
def test_temporary_memory_at_full_size(product, request):
    name, _ = formulations.choose(product, CPU)
    if name == formulations.STOCK:
        return  # nothing to compare
    ours, stock = (compiled(n, product).memory_analysis().temp_size_in_bytes for n in (name, formulations.STOCK))
    spare = 0
    if request.node.callspec.id in COPIED_INTO_A_LOOP:
        operands = {"fprop": "xw", "dgrad": "yw", "wgrad": "xy"}[product.role]
        spare = sum(getattr(catalogue.Sizes(product), n) for n in operands)
    assert ours - spare <= max(stock, SPARE_MEMORY), (name, ours / 1e6, stock / 1e6)


def test_programs_do_not_grow_with_the_kernel():
    """Which is what their compile time would grow with; 31x31 is the largest of the suite."""
    case = next(c for c in suite() if c.name == "replknet_31").on_cpu()
    for product in case.products().values():
        bare = dataclasses.replace(product, bias=False, activation=None)
        name, _ = formulations.choose(bare, CPU)
        assert name != formulations.STOCK
        text = compiled(name, bare).as_text()
        assert text.count("\n") < 5000

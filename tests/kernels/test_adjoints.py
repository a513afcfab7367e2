"""The three products of one convolution, by kernels of all families: <y, conv(x, w)> = <dgrad(y, w), x> = <wgrad(x, y), w>.

Operands are small integers, whose sums float32 holds exactly. So the three numbers are the same, to the last bit, and a wrong
order of taps, a lost pixel or a channel in the wrong place is none of rounding.
"""

import dataclasses
import random
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import families, mosaic, serve
from pallas_conv.kernels.dense import plan as dense
from pallas_conv.kernels.depthwise import DEPTHWISE
from pallas_conv.kernels.depthwise import search as depthwise
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.large_depthwise import LARGE_DEPTHWISE
from pallas_conv.kernels.large_depthwise import search as large_depthwise
from pallas_conv.kernels.packed_groups import PACKED_GROUPS
from pallas_conv.kernels.packed_groups.plan import LAUNCHED, counts, packed
from pallas_conv.kernels.packed_groups.plan import Config as Packing
from pallas_conv.kernels.pointwise import POINTWISE
from pallas_conv.kernels.pointwise import search as pointwise
from pallas_conv.kernels.tap_blocks import TAP_BLOCKS
from pallas_conv.kernels.wgrad import plan as wgrad
from pallas_conv.spec import Product
from tests.kernels import cases
from tests.kernels.depthwise.proving import some_product as some_depthwise_product
from tests.kernels.large_depthwise.proving import some_product as some_large_depthwise_product
from tests.kernels.wgrad.proving import some_product

pytestmark = pytest.mark.usefixtures("dropped_axes")


def p(*args, **changes) -> Product:
    """A weight gradient in float32."""
    return cases.product("wgrad", *args, out_dtype="float32", **changes)


PRODUCTS = {
    "3x3": p(2, (24, 40), (7, 9), 3, 1, 1),
    "strided, asymmetric": p(2, (16, 24), (9, 8), (3, 2), 2, ((0, 2), (1, 0))),
    "transposed": p(2, (24, 16), (4, 5), (3, 4), 1, ((1, 2), (2, 1)), input_dilation=2),
    "dilated, negative padding": p(1, (16, 16), (11, 9), 3, 1, ((-1, 2), (3, -2)), (2, 1)),
    "groups": p(1, (32, 48), (7, 6), 3, 1, 1, groups=2),
    "one dimension": p(2, (16, 24), (40,), 5, 1, 4, 2),
    "three dimensions": p(1, (16, 16), (3, 4, 5), 2, (1, 2, 1), 1),
    "models": p(1, (16, 16), (5, 6), 3, 1, 1, models=2),
    "float16": dataclasses.replace(p(1, (16, 16), (7, 9), 3, 2, 1), compute_dtype="float16"),
    "float32": dataclasses.replace(p(1, (16, 16), (7, 9), 3, 1, 1), compute_dtype="float32"),
    "depthwise, strided, asymmetric": p(2, (24, 24), (9, 20), (3, 2), 2, ((0, 2), (1, 0)), groups=24),
    "depthwise, transposed": p(2, (40, 40), (4, 9), (3, 4), 1, ((1, 2), (2, 1)), input_dilation=2, groups=40),
    "depthwise, one dimension, dilated": p(2, (24, 24), (40,), 5, 1, 4, 2, groups=24),
    "depthwise, three dimensions": p(1, (16, 16), (3, 4, 5), 2, (1, 2, 1), 1, groups=16),
    "depthwise, models": p(1, (16, 16), (5, 6), 3, 1, 1, groups=16, models=2),
    "groups of two, strided": p(2, (24, 24), (9, 20), (3, 2), 2, ((0, 2), (1, 0)), groups=12),
    "groups of four, transposed": p(2, (36, 36), (4, 9), (3, 4), 1, ((1, 2), (2, 1)), input_dilation=2, groups=9),
    "groups of eight, models": p(1, (24, 24), (5, 6), 3, 1, 1, groups=3, models=2),
    "groups of four, float32": dataclasses.replace(p(1, (20, 20), (7, 19), 3, 1, 1, groups=5), compute_dtype="float32"),
    "groups of three, strided": p(2, (24, 24), (9, 20), (3, 2), 2, ((0, 2), (1, 0)), groups=8),
    "one channel in, three out, transposed": p(
        2, (8, 24), (4, 9), (3, 4), 1, ((1, 2), (2, 1)), input_dilation=2, groups=8
    ),
    "five channels in, two out, models": p(1, (15, 6), (5, 6), 3, 1, 1, groups=3, models=2),
    "groups of nine and twelve": p(1, (18, 24), (7, 6), 3, 1, 1, groups=2),
    "groups of one channel in, ten out, packed, strided": p(1, (16, 160), (7, 6), 3, 2, 1, groups=16),
    "groups of ten channels in, three out, packed, transposed, models": p(
        1, (60, 18), (4, 5), (3, 4), 1, ((1, 2), (2, 1)), input_dilation=2, groups=6, models=2
    ),
    "large depthwise, asymmetric": p(1, (12, 12), (13, 20), (11, 12), 1, ((3, 6), (7, 2)), groups=12),
    "large depthwise, models": p(1, (6, 6), (20, 9), (31, 5), 1, (15, 2), groups=6, models=3),
    "blocks of taps, strided": dataclasses.replace(
        p(1, (16, 16), (9, 12), (5, 6), 2, ((1, 2), (2, 3)), groups=2), compute_dtype="float32"
    ),
    "blocks of taps, transposed": dataclasses.replace(
        p(1, (16, 16), (4, 9), (6, 7), 1, ((1, 2), (2, 3)), input_dilation=2, groups=4), compute_dtype="float32"
    ),
    "1x1": p(2, (40, 72), (7, 9), 1),
    "1x1, models, float16": dataclasses.replace(p(1, (72, 24), (3, 4, 5), 1, models=2), compute_dtype="float16"),
    "depthwise, float32": dataclasses.replace(p(1, (8, 8), (7, 19), 3, 1, 1, groups=8), compute_dtype="float32"),
}
QUICK = (
    "transposed",
    "depthwise, strided, asymmetric",
    "large depthwise, asymmetric",
    "groups of one channel in, ten out, packed, strided",
)


def config(product: Product) -> Any:
    """A small tile of the family that serves a product."""
    if LARGE_DEPTHWISE.is_for(product):
        return large_depthwise.least(LARGE_DEPTHWISE.problem(product))
    if PACKED_GROUPS.is_for(product):
        count = counts(product)[-1]
        return Packing(count, LAUNCHED[product.role].name, config(packed(product, count)))
    if families.serving(product) is TAP_BLOCKS:
        return next(TAP_BLOCKS.candidates(TAP_BLOCKS.problem(product), Gpu(4)))
    if families.serving(product) is POINTWISE:
        return pointwise.narrowest(POINTWISE.problem(product))
    if DEPTHWISE.is_for(product):
        return depthwise.least(DEPTHWISE.problem(product))
    box = {1: (1, 64), 2: (1, 8, 8), 3: (1, 1, 8, 8)}[product.spec.ndim]
    if product.role == "wgrad":
        return wgrad.Config(box, stages=2, transposed=not wgrad.Problem.of(product).single_phase)
    return dense.Config(box, 32, tile_k=16, stages=2)


def whole(product: Product) -> Product:
    """Both gradients of a layer at once."""
    return dataclasses.replace(product, role="bwd", outputs=("dx", "dw"))


def at_once(product: Product) -> bool:
    """Whether a kernel is to compute both gradients of a layer at once."""
    return families.serving(product) is DEPTHWISE or not POINTWISE.reasons(whole(product))


def pairings(product: Product, seed: int) -> list[float]:
    """The sum of all y * conv(x, w), computed in three ways, and in two more where a kernel computes both gradients."""
    rng = np.random.default_rng(seed)
    products = {role: dataclasses.replace(product, role=role, outputs=()) for role in ("fprop", "dgrad", "wgrad")}
    shapes = dict(zip("xw", products["fprop"].operand_shapes, strict=True)) | {"y": products["dgrad"].operand_shapes[0]}
    arrays = {name: rng.integers(-2, 3, shape) for name, shape in shapes.items()}
    found = []
    asked = [("fprop", "xw", "y"), ("dgrad", "yw", "x"), ("wgrad", "xy", "w")]
    if families.serving(whole(product)):
        products["bwd"] = whole(product)
        asked.append(("bwd", "xyw", "xw"))
    for role, names, others in asked:
        kernel = serve.kernel(products[role], Gpu(4), config(products[role]))
        operands = [jnp.asarray(arrays[name], product.compute_dtype) for name in names]
        outs = mosaic.run_interpreted(lambda *a, kernel=kernel: kernel.run(*a, interpret=True), *operands)
        for out, other in zip(outs, others, strict=True):
            assert out.dtype == jnp.float32
            found.append(float(np.vdot(np.asarray(out, np.float64), arrays[other])))
    return found


def check(product: Product, seed: int) -> None:
    found = pairings(product, seed)
    assert len(found) == (5 if at_once(product) else 3)
    assert len(set(found)) == 1


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (n not in QUICK)) for n in PRODUCTS])
def test_three_ways_to_one_number(name):
    check(PRODUCTS[name], seed=0)


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize(
    "draw",
    [some_product, some_depthwise_product, some_large_depthwise_product],
    ids=["wgrad", "depthwise", "large_depthwise"],
)
def test_three_ways_to_one_number_of_random_products(draw, seed):
    rng = random.Random(f"adjoint {seed}")
    drawn = (q for q in map(draw, [rng] * 3000) if q.role == "wgrad")
    products = (dataclasses.replace(q, out_dtype="float32", outputs=(), models=None) for q in drawn)
    wholes = lambda q: [whole(q)] * at_once(q)
    others = lambda q: [*(dataclasses.replace(q, role=role, outputs=()) for role in ("fprop", "dgrad")), *wholes(q)]
    served = lambda q: all(map(families.serving, others(q)))
    small = lambda q: (
        q.batch * np.prod(q.spec.in_spatial) * np.prod(q.spec.kernel_spatial)
        < (400_000 if LARGE_DEPTHWISE.is_for(q) else 3000)
    )
    check(next(q for q in products if small(q) and served(q)), seed)

"""The suite says what it measures: shapes, work and traffic agree with its records, with equinox and with the oracle."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.spec import Product
from pallas_conv.verify.reference import reference, rounded_to_tf32, truncated_to_tf32
from workloads.cases import OPERANDS, SUITE, Case, suite

RECORDED = {row["id"]: row for row in json.loads(SUITE.read_text())["cases"]}
every = pytest.mark.parametrize("case", suite(), ids=lambda c: c.name)


@every
def test_shape_and_work_are_the_recorded_ones(case):
    row = RECORDED[case.name]
    assert case.out_spatial == tuple(row["out_spatial"])
    assert case.flops("f") / 1e9 == pytest.approx(row["forward_gflop"], abs=1e-3)
    assert case.nbytes("f") / 1e6 == pytest.approx(row["forward_min_mbytes"], abs=1e-3)


def of(case, direction):
    return [jax.ShapeDtypeStruct(case.shapes()[name], case.dtype) for name in OPERANDS[direction]]


@every
def test_stock_layer_has_the_shapes_and_dtypes_of_the_case(case):
    shapes = case.shapes()
    for direction in case.directions:
        out = jax.eval_shape(case.stock(direction), *of(case, direction))
        want = {"f": shapes["y"], "d": shapes["x"], "w": shapes["w"]}[direction]
        assert out.shape == ((case.batch, *want) if case.per_example else want), direction
        assert out.dtype == jnp.dtype(case.dtype)
    if not case.per_example:
        y, grads = jax.eval_shape(case.stock("fb"), *of(case, "fb"))
        assert y.shape == shapes["y"]
        assert [g.shape for g in grads][-2:] == [shapes["w"], shapes["b"]]
        assert len(grads) == 2 + ("d" in case.directions)


@every
def test_products_are_posed_as_the_layer_is(case):
    products = case.products()
    assert list(products) == [*case.directions, *["b"] * case.at_once]
    for product in products.values():
        assert product.spec == case.spec
        assert product.batch * (product.models or 1) == case.batch
    if "f" in products:
        assert products["f"].epilogue == (case.epilogue or "linear").replace("+", "_")


def test_cpu_sizes_are_valid_layers():
    small = [c.on_cpu() for c in suite()]
    assert sum(c is not None for c in small) > 30
    for case in filter(None, small):
        for direction in case.directions:
            jax.eval_shape(case.stock(direction), *of(case, direction))


def test_all_gradients_at_once_are_of_groups_of_few_channels():
    found = {case.name: case for case in suite() if "b" in case.products()}
    assert {"convnext_s1", "mamba_k4", "resnext_g32", "replknet_31"} <= set(found)
    assert not {"resnet50_c2", "unet_up"} & set(found)
    case = found["mamba_k4"]
    shapes = case.shapes()
    outs = jax.eval_shape(case.stock("b"), *of(case, "b"))
    assert [out.shape for out in outs] == [shapes["x"], shapes["w"], shapes["b"]]
    assert case.flops("b") == case.flops("d") + case.flops("w")
    elements = {name: math.prod(shape) for name, shape in shapes.items()}
    assert case.activation == "silu"  # of which the sum is read
    assert case.nbytes("b") == 2 * (2 * elements["x"] + 2 * elements["y"] + 2 * elements["w"])


def shrunk(case: Case) -> Case:
    """A few channels and pixels, with the geometry of the case."""
    groups = case.groups if case.groups == 1 else 2
    wide = case.groups == case.in_channels > 1
    change = {
        "batch": 2,
        "in_channels": 2 if wide else min(case.in_channels, 4),
        "out_channels": 2 if wide else min(case.out_channels, 6),
        "spatial": tuple(n + 2 * d * (d > 1) for n, d in zip((9, 8, 7), case.dilation, strict=False)),
        "dtype": "float32",
    }
    return dataclasses.replace(case, groups=groups, **change)


def every_output(product: Product, *operands: jax.Array) -> list[jax.Array]:
    """The outputs of a product, by the reference."""
    one = lambda name: dataclasses.replace(product, outputs=(name,))
    return [jnp.asarray(reference(one(name), *operands), "float32") for name in product.outputs]


DISTINCT = [c for c in suite() if c.name.removesuffix("_f32").removesuffix("_f16") == c.name]
QUICK = (
    "resnet50_c3_s2",
    "resnext_g32",
    "stylegan_up",
    "jax31662",
    "wavenet_d512",
    "pde_circular",
    "per_example_wgrad",
)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=() if c.name in QUICK else pytest.mark.extended) for c in DISTINCT]
)
def test_oracle_agrees_with_equinox(case):
    small = shrunk(case)
    for direction in small.products():
        operands = small.arrays(direction, seed=3)
        want = jax.jit(small.stock(direction))(*operands)
        oracle = small.ours(direction, every_output)
        for got, expected in zip(jax.tree.leaves(oracle(*operands)), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def test_oracle_of_negative_padding_and_slack():
    case = Case("crop", "conv", 2, 3, 4, (11, 9), (3, 2), (3, 2), ((-2, 1), (1, -1)), (2, 1), dtype="float32")
    for direction in case.directions:
        operands = case.arrays(direction)
        want = jax.jit(case.stock(direction))(*operands)
        (got,) = [reference(case.products()[direction], *operands)]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_tf32():
    ulp = np.float32(2.0**-10)
    values = np.array([1, 1 + ulp / 2, 1 + ulp * 0.51, 1 + 3 * ulp / 2, -3.0, 0], np.float32)
    np.testing.assert_array_equal(rounded_to_tf32(values), np.array([1, 1, 1 + ulp, 1 + 2 * ulp, -3, 0], np.float32))
    np.testing.assert_array_equal(truncated_to_tf32(values), np.array([1, 1, 1, 1 + ulp, -3, 0], np.float32))


def test_operands_are_seeded_and_fresh():
    case = next(c for c in suite() if c.name == "dcgan_t_last").on_cpu()
    a, b, c = case.arrays("f", 1), case.arrays("f", 1), case.arrays("f", 2)
    assert all((i == j).all() for i, j in zip(a, b, strict=True))
    assert not any((i == j).all() for i, j in zip(a, c, strict=True))
    assert float(jnp.std(jax.jit(case.stock("f"))(*a))) == pytest.approx(1.4, abs=0.5)

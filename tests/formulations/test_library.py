"""The lax programs of the three products against `jax.vjp` of lax's own convolution, in float64."""

import random
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pallas_conv import formulations
from pallas_conv.equation import BILINEAR, Op, make_product
from pallas_conv.formulations.programs.library import misread_on_cpu
from pallas_conv.spec import ConvSpec


def make_op(spec: ConvSpec, dtype: Any = "float64", **changes: Any) -> Op:
    return Op(spec, np.dtype(dtype), np.dtype(dtype), **changes)


def multiply(
    formulation: str, role: str, a: jax.Array, b: jax.Array, op: Op, dtype: str, wide_sums: bool = True
) -> jax.Array:
    """The product of these arrays by a formulation."""
    shapes = dict(zip(BILINEAR[role][0], (a.shape, b.shape), strict=True))
    product = make_product(role, op, shapes, dtype)
    return formulations.run_formulation(formulation, product, a, b, op, np.dtype(dtype), wide_sums=wide_sums)


def random_spec(seed: int) -> tuple[ConvSpec, int, int, int]:
    """A geometry with everything that lax has, and batch, input and output channels."""
    rng = random.Random(zlib.crc32(f"formulation {seed}".encode()))
    ndim, groups = rng.choice((1, 2, 2, 3)), rng.choice((1, 1, 2, 3))
    ints = lambda lo, hi: tuple(rng.randint(lo, hi) for _ in range(ndim))
    empty = rng.random() < 0.1
    while True:
        spec = ConvSpec(
            strides=ints(1, 3),
            padding=tuple((rng.randint(-2, 3), rng.randint(-2, 3)) for _ in range(ndim)),
            input_dilation=ints(1, 3),
            kernel_dilation=ints(1, 2),
            groups=groups,
            in_spatial=ints(0 if empty else 1, 7 if ndim < 3 else 4),
            kernel_spatial=ints(1, 4),
        )
        sizes = zip(spec.in_spatial, spec.input_dilation, spec.padding, strict=True)
        if all((n and (n - 1) * d + 1) + sum(pads) >= 0 for n, d, pads in sizes):
            return spec, rng.randint(0 if empty else 1, 3), groups * rng.randint(1, 2), groups * rng.randint(1, 3)


def reference(spec: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """The result with padding and input dilation in memory: some XLA versions read out of bounds for padding of mixed sign."""
    space = [(lo, hi, d - 1) for (lo, hi), d in zip(spec.padding, spec.input_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *space])
    how = {"rhs_dilation": spec.kernel_dilation, "feature_group_count": spec.groups}
    return lax.conv_general_dilated(x, w, spec.strides, "VALID", **how)


def standard_normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape))


@pytest.mark.parametrize(
    "seed", [*range(30), *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(30, 500))]
)
@pytest.mark.parametrize("formulation", [formulations.STOCK, formulations.CROPPED])
def test_products_are_those_of_lax(seed, formulation):
    spec, n, c, o = random_spec(seed)
    rng, op = np.random.default_rng(seed), make_op(spec)
    with jax.enable_x64(True):
        x = standard_normal(rng, n, c, *spec.in_spatial)
        w = standard_normal(rng, o, c // spec.groups, *spec.kernel_spatial)
        ct = standard_normal(rng, n, o, *spec.out_spatial)

        @jax.jit
        def both(x: jax.Array, w: jax.Array, ct: jax.Array) -> tuple[list, list]:
            run = lambda role, a, b: multiply(formulation, role, a, b, op, "float64")
            y, vjp = jax.vjp(lambda x, w: reference(spec, x, w), x, w)
            return [run("fprop", x, w), run("dgrad", ct, w), run("wgrad", x, ct)], [y, *vjp(ct)]

        for role, got, want in zip(("fprop", "dgrad", "wgrad"), *both(x, w, ct), strict=True):
            if formulation == formulations.STOCK and misread_on_cpu(role, spec):
                continue  # this is what the other formulation is for
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("role", ["fprop", "dgrad", "wgrad"])
def test_models_and_several_batch_axes(role):
    """Leading axes: independent problems first, then images, any number of each."""
    spec = ConvSpec((2, 1), ((1, 0), (0, 2)), (1, 2), (1, 1), 2, (5, 4), (3, 2))
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, w = standard_normal(rng, 2, 3, 2, 4, *spec.in_spatial), standard_normal(rng, 2, 6, 2, *spec.kernel_spatial)
        ct = standard_normal(rng, 2, 3, 2, 6, *spec.out_spatial)
        a, b = {"fprop": (x, w), "dgrad": (ct, w), "wgrad": (x, ct)}[role]
        got = multiply(formulations.STOCK, role, a, b, make_op(spec, ensemble_axes=1), "float64")
        for e in range(2):
            flat = lambda t, e=e: t[e].reshape(-1, *t.shape[3:])
            y, vjp = jax.vjp(lambda x, w: reference(spec, x, w), flat(x), w[e])
            want = dict(zip(("fprop", "dgrad", "wgrad"), (y, *vjp(flat(ct))), strict=True))[role]
            np.testing.assert_allclose(got[e].reshape(want.shape), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wide_sums", [True, False])
@pytest.mark.parametrize("role", ["fprop", "dgrad", "wgrad"])
def test_wide_sums(role, wide_sums):
    """Sums of bfloat16 products, asked for in float32: never rounded to bfloat16, or rounded once, as stock stores them."""
    spec = ConvSpec((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1, (9, 8), (3, 3))
    rng, shapes = np.random.default_rng(0), {"x": (2, 8, 9, 8), "w": (8, 8, 3, 3), "ct": (2, 8, 9, 8)}
    names = {"fprop": ("x", "w"), "dgrad": ("ct", "w"), "wgrad": ("x", "ct")}[role]
    a, b = (jnp.asarray(rng.standard_normal(shapes[name]), jnp.bfloat16) for name in names)
    got = multiply(formulations.STOCK, role, a, b, make_op(spec, jnp.bfloat16), "float32", wide_sums)
    assert got.dtype == jnp.float32
    rounded = got.astype(jnp.bfloat16).astype(jnp.float32)
    assert (np.mean(np.asarray(got != rounded)) > 0.9) if wide_sums else bool(jnp.all(got == rounded))
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(t, np.float64)) for t in (a, b)]
        want = multiply(formulations.STOCK, role, *wide, make_op(spec), "float64")
        error = np.abs(np.asarray(got, np.float64) - np.asarray(want)).max() / np.abs(np.asarray(want)).max()
    assert error < (2**-20 if wide_sums else 2**-8)


@pytest.mark.parametrize("role", ["fprop", "dgrad", "wgrad"])
def test_precision_reaches_the_program(role):
    spec = ConvSpec((1,), ((0, 0),), (1,), (1,), 1, (6,), (3,))
    shapes = {"fprop": ((1, 2, 6), (3, 2, 3)), "dgrad": ((1, 3, 4), (3, 2, 3)), "wgrad": ((1, 2, 6), (1, 3, 4))}[role]
    for precision in (None, "highest"):
        op = make_op(spec, "float32", precision=precision)
        run = lambda a, b, op=op: multiply(formulations.STOCK, role, a, b, op, "float32")
        program = jax.jit(run).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).as_text()
        assert ("HIGHEST" in program) == (precision == "highest")
        assert program.count("stablehlo.convolution") == 1

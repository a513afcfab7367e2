"""The three arguments that equinox does not have: activation, compute_dtype, implementation."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_conv as pc
from pallas_conv.activations import ACTIVATIONS, applied
from tests.nn.layers import KEY, assert_identical, assert_same_function, normal


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["Conv1d", "ConvTranspose2d"])
def test_activation(name, activation):
    """Result and gradients of a fused activation are those of jax.nn after the stock layer."""
    stock, ours = getattr(eqx.nn, name)(4, 6, 3, key=KEY), getattr(pc, name)(4, 6, 3, activation=activation, key=KEY)
    assert_same_function(stock, ours, normal(4, *[7] * ours.num_spatial_dims), ACTIVATIONS[activation].f)


def test_activation_at_zero():
    """The kinks: the derivatives at 0 are those of jax.nn, although they are read from the result."""
    zero = lambda layer: eqx.tree_at(lambda m: (m.weight, m.bias), layer, (jnp.ones((1, 1, 1)), jnp.zeros((1, 1))))
    for name, (f, *_) in ACTIVATIONS.items():
        layer = zero(pc.Conv1d(1, 1, 1, activation=name, key=KEY))
        got = jax.grad(lambda x, layer=layer: layer(x)[0, 0])(jnp.zeros((1, 1)))[0, 0]
        assert got == pytest.approx(float(jax.grad(f)(0.0))), name


def as_bf16(t: jax.Array) -> np.ndarray:
    return np.asarray(t.astype(jnp.bfloat16)).astype(np.float64)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_compute_dtype(name, activation):
    """bfloat16 over float32 parameters: a bfloat16 result; float32 gradients that bfloat16 has never rounded."""
    layer = getattr(pc, name)(4, 6, 3, 2, padding=1, compute_dtype=jnp.bfloat16, activation=activation, key=KEY)
    x = normal(4, 33, 33)
    y, vjp = jax.vjp(lambda p, x: eqx.combine(p, layer)(x), eqx.filter(layer, eqx.is_array), x)
    ct = normal(*y.shape, dtype=jnp.bfloat16, seed=5)
    assert y.dtype == jnp.bfloat16
    grads, dx = vjp(ct)
    assert (grads.weight.dtype, grads.bias.dtype, dx.dtype) == (jnp.float32,) * 3
    with jax.enable_x64(True):  # float64 with operands as bfloat16 has them
        x64, w64, b64, g64 = map(jnp.asarray, (as_bf16(x), as_bf16(layer.weight), as_bf16(layer.bias), as_bf16(ct)))
        plain = getattr(eqx.nn, name)(4, 6, 3, 2, padding=1, key=KEY)
        wide = eqx.tree_at(lambda m: (m.weight, m.bias), plain, (w64, b64))
        z, pull = jax.vjp(lambda p, x: eqx.combine(p, wide)(x), eqx.filter(wide, eqx.is_array), x64)
        assert z.dtype == jnp.float64
        g = jax.vjp(functools.partial(applied, activation), z)[1](g64)[0]
        exact, exact_dx = pull(g)
    # Without an activation the cotangent is exact: what is left are float32 sums. With one, it is rounded to be multiplied.
    eps = 2**-24 if activation is None else 2**-9
    for got, want in ((grads.weight, exact.weight), (grads.bias, exact.bias), (dx, exact_dx)):
        got, want = np.asarray(got).astype(np.float64), np.asarray(want)
        assert np.abs(got - want).max() <= 64 * eps * np.abs(want).max()
    for got in (grads.weight, grads.bias):  # more than eight significant bits
        assert np.mean(as_bf16(got) != np.asarray(got)) > 0.5


def test_compute_dtype_takes_any_input():
    layer = pc.Conv2d(4, 6, 3, compute_dtype=jnp.bfloat16, key=KEY)
    x = normal(4, 8, 8)
    for given in (x, x.astype(jnp.bfloat16), x.astype(jnp.float16)):
        assert layer(given).dtype == jnp.bfloat16


def products(f: Any, *args: Any) -> list[str]:
    return [plan.implementation for plan in pc.explain(f, *args, device="h100")]


@pytest.mark.parametrize("given", ["xla", ("xla",), ["xla"], ("mosaic", "xla")])
def test_implementation(given):
    """A layer's own wins over the context; None follows it."""
    x = normal(8, 8, 8, dtype=jnp.bfloat16)
    make = functools.partial(pc.Conv2d, 8, 8, 3, dtype=jnp.bfloat16, key=KEY)
    layer, follows = make(implementation=given), make()
    expected = ["mosaic" if "mosaic" in given else "xla"]
    assert products(layer, x) == expected
    with pc.implementation("mosaic"):
        assert products(layer, x) == expected
        assert products(follows, x) == ["mosaic"]
    with pc.implementation("xla"):
        assert products(layer, x) == expected
        assert products(follows, x) == ["xla"]
    assert isinstance(layer.implementation, tuple)


def test_strict_implementation_on_a_cpu():
    layer = pc.Conv2d(4, 6, 3, implementation="mosaic", key=KEY)
    with pytest.raises(pc.UnsupportedError, match="mosaic") as error:
        layer(normal(4, 8, 8))
    assert len(error.value.reasons) == 1  # no GPU
    assert_identical(
        pc.Conv2d(4, 6, 3, implementation=("mosaic", "xla"), key=KEY)(normal(4, 8, 8)),
        eqx.nn.Conv2d(4, 6, 3, key=KEY)(normal(4, 8, 8)),
    )

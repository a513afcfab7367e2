"""Gradients of which somebody wants a few: dead code leaves backward passes without any convolution in them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_conv as pc

OPERANDS = ("x", "w", "b", "r")
WANTED = [names for count in (1, 2, 3) for names in itertools.combinations(OPERANDS, count)]


def operands():
    shapes = {"x": (2, 4, 9), "w": (6, 4, 3), "b": (6,), "r": (2, 6, 9)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes.values(), strict=True)]


def gradients(wanted, activation):
    """All are asked for in one transposition, and then only some are used."""

    def loss(x, w, b, r):
        return jnp.sum(pc.conv(x, w, b, padding=1, residual=r, activation=activation) ** 2)

    def some(*v):
        found = jax.grad(loss, range(len(OPERANDS)))(*v)
        return [found[OPERANDS.index(name)] for name in wanted]

    return jax.jit(some)(*operands())


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("wanted", WANTED, ids="".join)
def test_some_of_all_gradients(wanted, activation):
    got = gradients(wanted, activation)
    with pc.implementation("xla"):
        want = gradients(wanted, activation)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_bias_under_checkpoint():
    x, w, b, _ = operands()
    layer = jax.checkpoint(lambda b: jnp.sum(pc.conv(x, w, b, padding=1, activation="relu") ** 2))
    got = jax.jit(jax.grad(layer))(b)
    np.testing.assert_allclose(
        got, jax.grad(lambda b: jnp.sum(jax.nn.relu(pc.conv(x, w, b, padding=1)) ** 2))(b), rtol=1e-4
    )

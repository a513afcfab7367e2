"""The layers in training, against the installed equinox: as pytrees, under jit, in models, wrapped and transformed."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import pallas_conv as pc
from tests.nn.layers import KEY, arrays, assert_close, assert_same_function, layers, normal, small


def test_jit_caching():
    """Equal configurations share a trace, whatever spelt them; each extra makes another."""
    traces = []

    @eqx.filter_jit
    def run(layer: Any, x: jax.Array) -> jax.Array:
        traces.append(layer)
        return layer(x)

    x = normal(4, 8, 8)
    make = functools.partial(pc.Conv2d, 4, 6, 3)
    for key, extras in (
        (0, {}),
        (1, {}),
        (2, {"implementation": ["xla"]}),
        (3, {"implementation": ("xla",)}),
        (4, {"implementation": "xla"}),
    ):
        run(make(key=jr.key(key), **extras), x)
    assert len(traces) == 2
    run(make(key=KEY, activation="relu"), x)
    run(make(key=KEY, compute_dtype="bfloat16"), x)
    run(make(key=KEY, compute_dtype=jnp.bfloat16), x)
    assert len(traces) == 4
    with pc.implementation("xla"):
        run(make(key=KEY), x)
    assert len(traces) == 5


def test_equality_and_hash():
    a, b = (pc.Conv2d(4, 6, 3, activation="relu", implementation=["auto"], key=KEY) for _ in range(2))
    assert a == b
    assert a != pc.Conv2d(4, 6, 3, activation="silu", implementation=["auto"], key=KEY)
    assert not eqx.tree_equal(a, eqx.tree_at(lambda m: m.bias, b, b.bias + 1))
    static = [eqx.filter(layer, eqx.is_array, inverse=True) for layer in (a, b)]
    assert hash(static[0]) == hash(static[1])
    assert static[0] == static[1]


class Net(eqx.Module):
    first: Any
    second: Any
    head: eqx.nn.Linear

    def __init__(self, nn: Any, key: Any):
        a, b, c = jr.split(key, 3)
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, key=a)
        self.second = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, groups=2, key=b)
        self.head = eqx.nn.Linear(4, 2, key=c)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.second(jax.nn.relu(self.first(x)))).mean((1, 2)))


def test_training_steps_equal_stock():
    @eqx.filter_jit
    def step(model: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        loss, grads = eqx.filter_value_and_grad(lambda model: jnp.mean((jax.vmap(model)(x) - y) ** 2))(model)
        return loss, eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))

    stock, ours = Net(eqx.nn, KEY), Net(pc, KEY)
    for seed in range(3):
        x, y = normal(5, 3, 8, 8, seed=seed), normal(5, 2, seed=seed + 10)
        (loss_stock, stock), (loss, ours) = step(stock, x, y), step(ours, x, y)
        assert_close(loss, loss_stock)
    for a, b in zip(arrays(ours), arrays(stock), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_weight_norm(name):
    stock, ours = (eqx.nn.WeightNorm(layer, "weight") for layer in small(name))
    assert_same_function(stock, ours, normal(4, 6, 6))


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_spectral_norm(name):
    x, results = normal(4, 6, 6), []
    for layer in small(name):
        wrapped, state = eqx.nn.make_with_state(eqx.nn.SpectralNorm)(layer, "weight", key=KEY)
        for _ in range(2):
            y, state = eqx.filter_jit(wrapped)(x, state)
        results.append(y)
    assert_close(results[1], results[0])


def test_transformations_of_a_layer():
    """Stock supports more than grad: forward mode, second derivatives, linear_transpose, Lambda and Sequential."""
    stock, ours = layers("Conv1d", 2, 3, 3, padding=1, use_bias=False)
    x = normal(2, 6)
    for f in (jax.jacfwd, jax.jacrev, lambda f: jax.hessian(lambda x: jnp.sum(jnp.tanh(f(x))))):
        assert_close(f(ours)(x), f(stock)(x))
    ct = normal(3, 6)
    assert_close(jax.linear_transpose(ours, x)(ct)[0], jax.linear_transpose(stock, x)(ct)[0])
    model = eqx.nn.Sequential([ours, eqx.nn.Lambda(jax.nn.relu), pc.Conv1d(3, 1, 1, key=KEY)])
    same = eqx.nn.Sequential([stock, eqx.nn.Lambda(jax.nn.relu), eqx.nn.Conv1d(3, 1, 1, key=KEY)])
    assert_close(model(x, key=KEY), same(x, key=KEY))

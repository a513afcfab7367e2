"""Convolutions in loops: recurrent cells, training loops, rollouts and solvers, in plain equinox."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array, lax


@dataclasses.dataclass(frozen=True)
class Loop:
    """build(key) -> model; inputs(key) -> array; run(model, inputs) -> arrays, compiled as one program."""

    name: str
    build: Callable[[Array], Any]
    inputs: Callable[[Array], Array]
    run: Callable[[Any, Array], Any]


# ---------------------------------------------------------------- the models


class ConvLSTM(eqx.Module):
    """https://arxiv.org/abs/1506.04214, without peepholes."""

    gates: eqx.nn.Conv2d
    hidden: int = eqx.field(static=True)

    def __init__(self, channels: int, hidden: int, key: Array):
        self.gates = eqx.nn.Conv2d(channels + hidden, 4 * hidden, 3, padding=1, key=key)
        self.hidden = hidden

    def __call__(self, frames: Array) -> Array:
        """(T, N, C, H, W) -> (N, hidden, H, W): the last state."""

        def step(state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], None]:
            h, c = state
            i, f, o, g = jnp.split(jax.vmap(self.gates)(jnp.concatenate([x, h], 1)), 4, 1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        empty = jnp.zeros((frames.shape[1], self.hidden, *frames.shape[3:]), frames.dtype)
        (h, _), _ = lax.scan(step, (empty, empty), frames)
        return h


def sequential(*layers: Any) -> eqx.nn.Sequential:
    return eqx.nn.Sequential([part for layer in layers for part in (layer, eqx.nn.Lambda(jax.nn.relu))])


def cnn(key: Array) -> eqx.nn.Sequential:
    a, b = jax.random.split(key)
    return sequential(eqx.nn.Conv2d(3, 32, 3, padding=1, key=a), eqx.nn.Conv2d(32, 64, 3, stride=2, padding=1, key=b))


def policy(key: Array) -> eqx.nn.Sequential:
    a, b, c = jax.random.split(key, 3)
    return sequential(
        eqx.nn.Conv2d(4, 32, 3, padding=1, key=a),
        eqx.nn.Conv2d(32, 32, 3, padding=1, key=b),
        eqx.nn.Conv2d(32, 4, 3, padding=1, key=c),
    )


def down_and_up(key: Array) -> eqx.nn.Sequential:
    a, b = jax.random.split(key)
    return sequential(
        eqx.nn.Conv2d(16, 32, 4, stride=2, padding=1, key=a),
        eqx.nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, key=b),
    )


def volumes(key: Array) -> eqx.nn.Sequential:
    a, b = jax.random.split(key)
    return sequential(eqx.nn.Conv3d(16, 16, 3, padding=1, key=a), eqx.nn.Conv3d(16, 16, 3, padding=1, key=b))


# ---------------------------------------------------------------- the loops


def value_and_grad(model: Any, x: Array) -> Any:
    return eqx.filter_value_and_grad(lambda model: jnp.mean(model(x) ** 2))(model)


def train(model: Any, batches: Array) -> Any:
    """Stochastic gradient descent, one step a batch."""
    weights, rest = eqx.partition(model, eqx.is_inexact_array)

    def step(weights: Any, x: Array) -> tuple[Any, Array]:
        loss = lambda weights: jnp.mean(jax.vmap(eqx.combine(weights, rest))(x) ** 2)
        value, grads = jax.value_and_grad(loss)(weights)
        return jax.tree.map(lambda w, g: w - 0.01 * g, weights, grads), value

    return lax.scan(step, weights, batches)


def roll_out(model: Any, state: Array, steps: int) -> Array:
    """Each state is what the model makes of the one before, added to it."""
    return lax.scan(lambda s, _: (s + 0.1 * jax.vmap(model)(s), None), state, None, length=steps)[0]


def shaped(*shape: int) -> Callable[[Array], Array]:
    return lambda key: jax.random.normal(key, shape)


def laplacian(key: Array) -> eqx.nn.Conv2d:
    """The five-point stencil: one channel, for which XLA's loop is the faster program, and which stays it."""
    layer = eqx.nn.Conv2d(1, 1, 3, padding=1, use_bias=False, key=key)
    return eqx.tree_at(lambda layer: layer.weight, layer, jnp.array([[[[0, 1.0, 0], [1, -4, 1], [0, 1, 0]]]]))


LOOPS = (
    Loop("ConvLSTM, gradient, 10 steps", lambda key: ConvLSTM(8, 32, key), shaped(10, 4, 8, 32, 32), value_and_grad),
    Loop("SGD inside scan, 8 steps", cnn, shaped(8, 16, 3, 32, 32), train),
    Loop("CNN policy, 20 steps", policy, shaped(8, 4, 32, 32), lambda model, x: roll_out(model, x, 20)),
    Loop("strided and transposed, SGD, 5 steps", down_and_up, shaped(5, 4, 16, 32, 32), train),
    Loop("two Conv3d, 5 steps", volumes, shaped(2, 16, 12, 12, 12), lambda model, x: roll_out(model, x, 5)),
    Loop("heat equation, 200 steps", laplacian, shaped(1, 1, 32, 32), lambda model, x: roll_out(model, x, 200)),
)  # fmt: skip

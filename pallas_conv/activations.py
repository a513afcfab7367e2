"""The activations that can be fused onto a convolution, and what their derivatives are read from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

LEAKY_RELU_SLOPE = 0.01  # of jax.nn.leaky_relu


class Activation(NamedTuple):
    """f: elementwise; derivative: f' as a (differentiable) function of what is saved for the backward pass.

    saved: "y", the output, which the next layer keeps anyway; or "z", the sum before the activation.
    """

    f: Callable[[Array], Array]
    saved: str
    derivative: Callable[[Array], Array]


def _of_sum(f: Callable[[Array], Array]) -> Activation:
    return Activation(f, "z", lambda z: jax.jvp(f, (z,), (jnp.ones_like(z),))[1])


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(jax.nn.relu, "y", lambda y: (y > 0).astype(y.dtype)),
    "leaky_relu": Activation(jax.nn.leaky_relu, "y", lambda y: jnp.where(y >= 0, 1, LEAKY_RELU_SLOPE).astype(y.dtype)),
    "tanh": Activation(jnp.tanh, "y", lambda y: 1 - y * y),
    "sigmoid": Activation(jax.nn.sigmoid, "y", lambda y: y * (1 - y)),
    "silu": _of_sum(jax.nn.silu),
    "gelu": _of_sum(lambda z: jax.nn.gelu(z, approximate=False)),
    "gelu_tanh": _of_sum(lambda z: jax.nn.gelu(z, approximate=True)),
}


def applied(activation: str | None, z: Array) -> Array:
    """The activation of this name at z; z itself for None."""
    return z if activation is None else ACTIVATIONS[activation].f(z)


def saved_by(activation: str | None) -> str | None:
    """The tensor from which the backward pass computes the derivative: "y", "z", or None without an activation."""
    return None if activation is None else ACTIVATIONS[activation].saved

"""Derivatives of activations, in float32, as functions of what the forward pass saved.

Where that is the output, they are those of `pallas_conv.activations`. Those of the sum are written out: there JAX derives them,
by way of operations that Mosaic does not lower (erfc, and sums of tangents).
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.activations import ACTIVATIONS


def _silu(z: Array) -> Array:
    s = lax.logistic(z)
    return s * (1 + z * (1 - s))


def _gelu(z: Array) -> Array:
    density = jnp.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * (1 + lax.erf(z * math.sqrt(0.5))) + z * density


def _gelu_tanh(z: Array) -> Array:
    scale, cubic = math.sqrt(2 / math.pi), 0.044715
    t = lax.tanh(scale * (z + cubic * z * z * z))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * (scale * (1 + 3 * cubic * z * z))


DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    **{name: activation.derivative for name, activation in ACTIVATIONS.items() if activation.saved == "y"},
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}

"""The epilogue of all kernels: bias, activation and cast of a sum on its way out, in float32."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.activations import LEAKY_RELU_SLOPE


def _relu(z: Array) -> Array:
    # Not jax.nn.relu: Mosaic refuses its custom_jvp. A NaN stays one.
    return jnp.maximum(z, 0)


def _gelu(z: Array) -> Array:
    # z * Phi(z), to a few 1e-7 absolutely. erfc would keep the tail's relative accuracy, but Mosaic does not lower it.
    return 0.5 * z * (1 + lax.erf(z * math.sqrt(0.5)))


def _gelu_tanh(z: Array) -> Array:
    return 0.5 * z * (1 + lax.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))


def _leaky_relu(z: Array) -> Array:
    return jnp.where(z >= 0, z, LEAKY_RELU_SLOPE * z)


ACTIVATIONS: dict[str | None, Callable[[Array], Array]] = {
    None: lambda z: z,
    "relu": _relu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda z: z * lax.logistic(z),
    "tanh": lax.tanh,
    "sigmoid": lax.logistic,
    "leaky_relu": _leaky_relu,
}


@dataclasses.dataclass(frozen=True)
class Epilogue:
    """The outputs of a tile's sums: z = sum + bias, y = activation(z).

    outputs: those that are stored, in the order in which the kernel returns them.
    """

    activation: str | None = None
    outputs: tuple[str, ...] = ("y",)

    def __call__(self, z: Array, dtype: jax.typing.DTypeLike) -> Iterator[tuple[int, Array]]:
        """Pairs (position among the outputs, value). z comes first: its registers are free before y needs any."""
        for name in ("z", "y"):
            if name in self.outputs:
                value = ACTIVATIONS[self.activation](z) if name == "y" else z
                yield self.outputs.index(name), value.astype(dtype)

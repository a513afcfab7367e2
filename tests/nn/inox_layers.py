"""Pairs of a layer of inox and ours, and how they are compared."""

import inox.nn as stock
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import pallas_conv as pc

KEY = jr.key(0)
NAMES = ("Conv", "ConvTransposed")

# arguments after the channels, and the spatial shape of x
CASES = {
    "plain": ({"kernel_size": (3, 3)}, (7, 6)),
    "no bias": ({"kernel_size": (3, 3), "bias": False}, (7, 6)),
    "array": ({"kernel_size": np.array([3, 2]), "stride": 2}, (7, 6)),
    "1d": ({"kernel_size": (5,), "stride": 2, "padding": 1}, (11,)),
    "3d": ({"kernel_size": (3, 2, 1), "stride": (1, 2, 1), "padding": 1}, (4, 5, 3)),
    "strided": ({"kernel_size": [4, 3], "stride": [3, 2], "padding": [(1, 2), (0, 1)]}, (9, 8)),
    "dilated": ({"kernel_size": (3, 2), "dilation": (2, 3), "padding": 2}, (7, 8)),
    "grouped": ({"kernel_size": (3, 3), "groups": 2, "stride": 2, "dilation": 2, "padding": 1}, (9, 8)),
    "depthwise": ({"kernel_size": (3, 3), "groups": 4, "padding": 1}, (7, 6)),
    # Not (-1, 1): XLA's own convolution on CPUs reads outside x there (JAX 0.11; not in JAX 0.12).
    "cropped": ({"kernel_size": (2, 2), "padding": [(-1, 0), (1, -2)]}, (7, 8)),
    "pointwise": ({"kernel_size": (1, 1), "stride": 2}, (7, 6)),
}
OFTEN = ("no bias", "array", "3d", "strided", "grouped", "cropped")
IN_CI = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.extended) for name in CASES]


def pair(name, in_channels=4, out_channels=8, key=KEY, **kwargs):
    make = lambda package: getattr(package, name)(in_channels, out_channels, key=key, **kwargs)
    return make(stock), make(pc.inox)


def trained(layer):
    """The layer with a bias that is not zero."""
    if layer.bias is not None:
        layer.bias.value = jr.normal(jr.key(7), layer.bias.value.shape, layer.bias.value.dtype)
    return layer


def by_inox(layer, x):
    """inox adds the bias by rank promotion."""
    with jax.numpy_rank_promotion("allow"):
        return layer(x)


def assert_close(a, b, tol=1e-5):
    def close(p, q):
        assert p.dtype == q.dtype
        np.testing.assert_allclose(p.astype(jnp.float32), q.astype(jnp.float32), rtol=tol, atol=tol)

    jax.tree.map(close, a, b)

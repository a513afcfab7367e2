"""Pairs of a layer of equinox and ours, and how they are compared. The installed equinox is the oracle."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import pallas_conv as pc

KEY = jr.key(7)
NAMES = [f"{kind}{n}" for kind in ("Conv", "ConvTranspose") for n in ("", "1d", "2d", "3d")]
EXTRAS = ("implementation", "activation", "compute_dtype")
DTYPES = [None, "float16", "bfloat16", "float32", "complex64"]


def layers(name: str, *args: Any, key: Any = KEY, **kwargs: Any) -> tuple[Any, Any]:
    """The stock layer and ours."""
    return getattr(eqx.nn, name)(*args, key=key, **kwargs), getattr(pc, name)(*args, key=key, **kwargs)


def small(name: str, **kwargs: Any) -> tuple[Any, Any]:
    """A pair of layers with 4 input channels, 6 output channels and a kernel of 3."""
    return layers(name, *([2] if name[-1] != "d" else []), 4, 6, 3, **kwargs)


def normal(*shape: int, dtype: Any = "float32", seed: int = 0) -> jax.Array:
    return jr.normal(jr.key(seed), shape, dtype)


def arrays(tree: Any) -> list[jax.Array]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def assert_identical(a: Any, b: Any) -> None:
    for ours, stock in zip(arrays(a), arrays(b), strict=True):
        assert (ours.shape, ours.dtype) == (stock.shape, stock.dtype)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(stock))


def assert_close(ours: jax.Array, reference: jax.Array, eps: float | None = None) -> None:
    """Equal up to a few roundings of the largest element: the sums are of the same terms."""
    assert (ours.shape, ours.dtype) == (reference.shape, reference.dtype)
    if not reference.size:
        return
    eps = float(jnp.finfo(reference.dtype).eps) if eps is None else eps
    wide = np.complex128 if np.iscomplexobj(reference) else np.float64
    ours, reference = np.asarray(ours).astype(wide), np.asarray(reference).astype(wide)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=16 * eps * max(1, np.abs(reference).max()))


def results(layer: Any, x: jax.Array, activation: Any = lambda y: y) -> list[jax.Array]:
    """activation(layer(x)), and the gradients of a loss whose cotangent differs everywhere: of x and the parameters."""
    params, static = eqx.partition(layer, eqx.is_inexact_array)

    def loss(x: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
        y = activation(eqx.combine(params, static)(x))
        c = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (jnp.abs(y) if jnp.iscomplexobj(y) else y).astype(jnp.float32).ravel() @ c.ravel(), y

    (dx, dparams), y = jax.grad(loss, (0, 1), has_aux=True)(x, params)
    return [y, dx, *jax.tree.leaves(dparams)]


@eqx.filter_jit
def both_results(stock: Any, ours: Any, x: jax.Array, activation: Any = lambda y: y) -> tuple[list, list]:
    return results(ours, x), results(stock, x, activation)


def assert_same_function(stock: Any, ours: Any, x: jax.Array, *activation: Any, eps: float | None = None) -> None:
    for a, b in zip(*both_results(stock, ours, x, *activation), strict=True):
        assert_close(a, b, eps)


def assert_same_layer(stock: Any, ours: Any, x: jax.Array) -> None:
    assert_identical(ours, stock)
    assert_same_function(stock, ours, x)

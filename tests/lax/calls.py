"""Operands, and how a call of ours is compared with one of jax.lax."""

import jax
import jax.numpy as jnp
import numpy as np

import pallas_conv as pc
from pallas_conv import lax as ours

NAMES = [name for name in ours.__all__ if name != "patched"]


def draw(*shape, dtype="float32", seed=0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return jnp.asarray(3 * values if np.issubdtype(np.dtype(dtype), np.integer) else values, dtype)


def served(f, *args) -> int:
    """Number of products of f that are ours. None of its convolutions may be lax's own."""
    explanation = pc.explain(f, *args)
    assert explanation.unconverted == 0
    return len(explanation)


def alike(f, g, *args):
    """The same result and gradients of f and g, up to rounding."""
    weigh = lambda y: jnp.sum(jnp.real(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)))
    of = lambda f: jax.jit(lambda *v: (f(*v), *jax.grad(lambda *v: weigh(f(*v)), (0, 1))(*v)))(*args)
    got, want = of(f), of(g)
    for a, b in zip(got, want, strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
        eps = float(jnp.finfo(b.dtype).eps)
        np.testing.assert_allclose(
            np.asarray(a, "complex128"),
            np.asarray(b, "complex128"),
            rtol=0,
            atol=40 * eps * float(jnp.abs(b).max(initial=1)),
        )


X, W = (2, 4, 8, 7), (6, 4, 3, 3)

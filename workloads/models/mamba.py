"""Mamba-130m (Gu and Dao 2023, https://arxiv.org/abs/2312.00752), the blocks around its scan.

Different here: of the selective scan, which is no convolution, only the skip D * u is left, and tokens are bytes, so that
neither the scan nor the vocabulary takes the time.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from .common import Scale, scaled, supervised

WIDTH, DEPTH = 768, 24
TAPS = 4
VOCABULARY = 256
LENGTH = 1024


class Block(eqx.Module):
    """Norm, projection, causal depthwise convolution, gate, projection: (length, C) -> (length, C)."""

    norm: eqx.nn.RMSNorm
    enter: eqx.nn.Linear
    depthwise: eqx.nn.Conv1d
    skip: Array
    leave: eqx.nn.Linear

    def __init__(self, width: int, key: Array) -> None:
        keys = jax.random.split(key, 3)
        inner = 2 * width
        self.norm = eqx.nn.RMSNorm(width, use_bias=False)
        self.enter = eqx.nn.Linear(width, 2 * inner, use_bias=False, key=keys[0])
        self.depthwise = eqx.nn.Conv1d(inner, inner, TAPS, padding=((TAPS - 1, 0),), groups=inner, key=keys[1])
        self.skip = jnp.ones((1, inner))
        self.leave = eqx.nn.Linear(inner, width, use_bias=False, key=keys[2])

    def __call__(self, x: Array) -> Array:
        u, gate = jnp.split(jax.vmap(self.enter)(jax.vmap(self.norm)(x)), 2, axis=1)
        u = jax.nn.silu(self.depthwise(u.T)).T
        return x + jax.vmap(self.leave)(self.skip * u * jax.nn.silu(gate))


class Mamba(eqx.Module):
    """Tokens (length,) -> logits of the ones that follow (vocabulary, length)."""

    embedding: eqx.nn.Embedding
    blocks: list[Block]
    norm: eqx.nn.RMSNorm
    head: eqx.nn.Linear

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 2 + DEPTH))
        width = scaled(WIDTH, divide)
        self.embedding = eqx.nn.Embedding(VOCABULARY, width, key=next(keys))
        self.blocks = [Block(width, next(keys)) for _ in range(DEPTH)]
        self.norm = eqx.nn.RMSNorm(width, use_bias=False)
        self.head = eqx.nn.Linear(width, VOCABULARY, use_bias=False, key=next(keys))

    def __call__(self, tokens: Array) -> Array:
        x = jax.vmap(self.embedding)(tokens)
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.head)(jax.vmap(self.norm)(x)).T


def batch(key: Array, images: int, side: int = LENGTH) -> tuple[Array, Array]:
    """Tokens (N, length), and the same one later."""
    text = jax.random.randint(key, (images, side + 1), 0, VOCABULARY)
    return text[:, :-1], text[:, 1:]


# Half a million tokens a step, as published, on 32 GPUs.
NETWORK = supervised("mamba", Mamba, batch, optax.adamw(6e-4, weight_decay=0.1), Scale(images=8, side=2048))

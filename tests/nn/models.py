"""A model with convolutions of every kind in every place, and how two models are compared."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np


def assert_same_leaves(a, b):
    """The very same objects."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    assert all(p is q for p, q in zip(a, b, strict=True))


def assert_close(a, b):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6), a, b)


def classes(model):
    is_layer = lambda n: isinstance(n, eqx.nn.Conv | eqx.nn.ConvTranspose)
    return [type(n) for n in jax.tree.leaves(model, is_leaf=is_layer) if is_layer(n)]


class Block(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    activation: callable

    def __init__(self, channels_in, channels_out, key):
        self.conv = eqx.nn.Conv2d(channels_in, channels_out, 3, padding="SAME", key=key)
        self.norm = eqx.nn.GroupNorm(2, channels_out)
        self.activation = jax.nn.silu

    def __call__(self, x):
        return self.activation(self.norm(self.conv(x)))


class UNet(eqx.Module):
    """Strided and transposed, depthwise and dilated, in lists, dicts and Sequential; and layers that are not convolutions."""

    encoder: list
    down: dict
    middle: eqx.nn.Sequential
    up: eqx.nn.ConvTranspose2d
    head: tuple
    name: str = eqx.field(static=True)

    def __init__(self, key):
        keys = jr.split(key, 7)
        self.encoder = [Block(3, 4, keys[0]), Block(4, 4, keys[1])]
        self.down = {"conv": eqx.nn.Conv2d(4, 8, 3, stride=2, padding=1, key=keys[2])}
        self.middle = eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, use_bias=False, key=keys[3]),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Conv(2, 8, 8, 1, padding_mode="CIRCULAR", key=keys[4]),
            ]
        )
        self.up = eqx.nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, key=keys[5])
        self.head = (eqx.nn.Linear(4, 2, key=keys[6]), None, 3.0)
        self.name = "unet"

    def __call__(self, x):
        for block in self.encoder:
            x = block(x)
        x = x + self.up(self.middle(self.down["conv"](x)))
        return self.head[0](x.mean((1, 2))) * self.head[2]


def run(model, *args):
    return eqx.filter_jit(lambda model, *args: model(*args))(model, *args)

"""U-Net in two dimensions (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597).

Different here: padding 1, so that the result is as large as the image and skips are not cropped, and no dropout. As
published: no norm, weights drawn as He et al. do, stochastic gradient descent with much momentum.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from .common import SIDE, Scale, scaled, supervised

STAGES = (64, 128, 256, 512, 1024)
LABELS = 2


def conv(channels: int, out: int, size: int, key: Array) -> eqx.nn.Conv2d:
    """A padded convolution that keeps the variance of what a relu leaves."""
    layer = eqx.nn.Conv2d(channels, out, size, padding=size // 2, key=key)
    return eqx.tree_at(lambda m: m.weight, layer, layer.weight * jnp.sqrt(6.0))  # from a variance of 1 / 3n to 2 / n


class Double(eqx.Module):
    """Two 3x3 convolutions, each with a relu: (C, h, w) -> (O, h, w)."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d

    def __init__(self, channels: int, out: int, key: Array) -> None:
        keys = jax.random.split(key)
        self.first, self.second = conv(channels, out, 3, keys[0]), conv(out, out, 3, keys[1])

    def __call__(self, x: Array) -> Array:
        return jax.nn.relu(self.second(jax.nn.relu(self.first(x))))


class UNet(eqx.Module):
    """(1, h, w) -> (labels, h, w); sides are multiples of 16."""

    down: list[Double]
    pool: eqx.nn.MaxPool2d
    up: list[eqx.nn.ConvTranspose2d]
    merge: list[Double]
    head: eqx.nn.Conv2d

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 3 * len(STAGES)))
        widths = [scaled(stage, divide) for stage in STAGES]
        self.down = [Double(c, o, next(keys)) for c, o in zip((1, *widths), widths, strict=False)]
        self.pool = eqx.nn.MaxPool2d(2, 2)
        pairs = list(zip(widths[1:], widths, strict=False))[::-1]  # (coarse, fine)
        self.up = [eqx.nn.ConvTranspose2d(c, f, 2, 2, key=next(keys)) for c, f in pairs]
        self.merge = [Double(2 * f, f, next(keys)) for _, f in pairs]
        self.head = conv(widths[0], LABELS, 1, next(keys))

    def __call__(self, x: Array) -> Array:
        skips = []
        for double in self.down:
            x = double(self.pool(x) if skips else x)
            skips.append(x)
        for skip, up, merge in zip(skips[-2::-1], self.up, self.merge, strict=True):
            x = merge(jnp.concatenate([skip, jax.nn.relu(up(x))]))
        return self.head(x)


def batch(key: Array, images: int, side: int = SIDE) -> tuple[Array, Array]:
    """Stand-ins for micrographs: (N, 1, side, side) and the label of every pixel (N, side, side)."""
    x, y = jax.random.split(key)
    labels = jax.random.randint(y, (images, side, side), 0, LABELS)
    return jax.random.normal(x, (images, 1, side, side)), labels


# The micrographs are of 512x512 pixels. The paper takes one at a time; 16 are what a GPU of today holds.
NETWORK = supervised("unet", UNet, batch, optax.sgd(1e-3, momentum=0.99), Scale(images=16, side=512))

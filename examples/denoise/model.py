"""A small U-Net, in plain equinox, with one convolution of every kind."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array


def activation(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.1)


class Separable(eqx.Module):
    """A depthwise 3x3 convolution, then a pointwise one, added to the input."""

    depthwise: eqx.nn.Conv2d
    pointwise: eqx.nn.Conv2d

    def __init__(self, channels: int, *, layers: Any, key: Array, **options: Any) -> None:
        depthwise_key, pointwise_key = jax.random.split(key)
        self.depthwise = layers.Conv2d(channels, channels, 3, padding=1, groups=channels, key=depthwise_key, **options)
        self.pointwise = layers.Conv2d(channels, channels, 1, key=pointwise_key, **options)

    def __call__(self, x: Array) -> Array:
        return x + self.pointwise(activation(self.depthwise(x)))


class UNet(eqx.Module):
    """Noisy image (3, height, width) -> denoised image. Sides must be multiples of 2 ** (len(widths) - 1).

    `layers` is where Conv2d and ConvTranspose2d come from: `equinox.nn`, or `pallas_conv`, whose layers are drop-in and
    take a few more `options` such as `compute_dtype`. The same key gives the same weights either way.
    """

    stem: eqx.nn.Conv2d
    encoder: list[Separable]
    down: list[eqx.nn.Conv2d]
    dilated: eqx.nn.Conv2d
    circular: eqx.nn.Conv2d
    up: list[eqx.nn.ConvTranspose2d]
    decoder: list[eqx.nn.Conv2d]
    head: eqx.nn.Conv2d

    def __init__(self, widths: tuple[int, ...] = (16, 24, 32), *, layers: Any = eqx.nn, key: Array, **options: Any):
        keys = iter(jax.random.split(key, 4 * len(widths)))

        def conv(*args: Any, **kwargs: Any) -> eqx.nn.Conv2d:
            return layers.Conv2d(*args, **kwargs, **options, key=next(keys))

        def conv_transpose(*args: Any, **kwargs: Any) -> eqx.nn.ConvTranspose2d:
            return layers.ConvTranspose2d(*args, **kwargs, **options, key=next(keys))

        finer, coarser, deepest = widths[:-1], widths[1:], widths[-1]
        self.stem = conv(3, widths[0], 3, padding=1)
        self.encoder = [Separable(width, layers=layers, key=next(keys), **options) for width in finer]
        self.down = [conv(fine, coarse, 3, stride=2, padding=1) for fine, coarse in zip(finer, coarser, strict=True)]
        self.dilated = conv(deepest, deepest, 3, padding=2, dilation=2)
        self.circular = conv(deepest, deepest, 3, padding=1, padding_mode="CIRCULAR")
        self.up = [conv_transpose(b, a, 4, stride=2, padding=1) for a, b in zip(finer, coarser, strict=True)]
        self.decoder = [conv(width, width, 3, padding=1) for width in finer]
        self.head = conv(widths[0], 3, 3, padding=1)

    def __call__(self, noisy: Array) -> Array:
        x = activation(self.stem(noisy))
        skips = []
        for separable, down in zip(self.encoder, self.down, strict=True):
            skips.append(separable(x))
            x = activation(down(skips[-1]))
        x = x + activation(self.dilated(x))
        x = x + activation(self.circular(x))
        for skip, up, decode in reversed(list(zip(skips, self.up, self.decoder, strict=True))):
            x = skip + activation(up(x))
            x = activation(decode(x))
        return noisy - self.head(x).astype(noisy.dtype)  # the network learns the noise


def loss(model: UNet, noisy: Array, clean: Array) -> Array:
    """Mean squared error of a batch."""
    return jnp.mean(jnp.square(jax.vmap(model)(noisy) - clean))

"""WaveNet (van den Oord et al. 2016, https://arxiv.org/abs/1609.03499): the next of 256 quantised samples of sound.

Here are no images but sequences of 4096 samples. The paper prints no widths: 128 channels, and 256 for the skips, are common
in open implementations, as is the residual of the last layer, which leads nowhere. Three times dilations 1 to 512;
unconditioned.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from .common import Scale, scaled, supervised

DILATIONS = 3 * tuple(2**i for i in range(10))
CHANNELS, SKIP = 128, 256
LEVELS = 256
SAMPLES = 4096


def causal(channels: int, out: int, dilation: int, key: Array) -> eqx.nn.Conv1d:
    """Two taps: this sample, and one before it."""
    return eqx.nn.Conv1d(channels, out, 2, padding=((dilation, 0),), dilation=dilation, key=key)


class Layer(eqx.Module):
    """A gated convolution: (C, samples) -> the next layer's (C, samples), and (skip, samples)."""

    dilated: eqx.nn.Conv1d
    residual: eqx.nn.Conv1d
    skip: eqx.nn.Conv1d

    def __init__(self, channels: int, skip: int, dilation: int, key: Array) -> None:
        keys = jax.random.split(key, 3)
        self.dilated = causal(channels, 2 * channels, dilation, keys[0])
        self.residual = eqx.nn.Conv1d(channels, channels, 1, key=keys[1])
        self.skip = eqx.nn.Conv1d(channels, skip, 1, key=keys[2])

    def __call__(self, x: Array) -> tuple[Array, Array]:
        filtered, gate = jnp.split(self.dilated(x), 2)
        y = jnp.tanh(filtered) * jax.nn.sigmoid(gate)
        return x + self.residual(y), self.skip(y)


class WaveNet(eqx.Module):
    """Levels of samples (samples,) -> logits of the ones that follow (levels, samples)."""

    first: eqx.nn.Conv1d
    layers: list[Layer]
    second_last: eqx.nn.Conv1d
    last: eqx.nn.Conv1d

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 3 + len(DILATIONS)))
        channels, skip = scaled(CHANNELS, divide), scaled(SKIP, divide)
        self.first = causal(LEVELS, channels, 1, next(keys))
        self.layers = [Layer(channels, skip, dilation, next(keys)) for dilation in DILATIONS]
        self.second_last = eqx.nn.Conv1d(skip, skip, 1, key=next(keys))
        self.last = eqx.nn.Conv1d(skip, LEVELS, 1, key=next(keys))

    def __call__(self, samples: Array) -> Array:
        x = self.first(jax.nn.one_hot(samples, LEVELS, axis=0, dtype=self.first.weight.dtype))
        skips = []
        for layer in self.layers:
            x, skip = layer(x)
            skips.append(skip)
        return self.last(jax.nn.relu(self.second_last(jax.nn.relu(sum(skips)))))


def batch(key: Array, images: int, side: int = SAMPLES) -> tuple[Array, Array]:
    """Samples (N, samples), and the same one later."""
    sound = jax.random.randint(key, (images, side + 1), 0, LEVELS)
    return sound[:, :-1], sound[:, 1:]


# A second of sound at 16 kHz; the paper names neither length nor batch.
NETWORK = supervised("wavenet", WaveNet, batch, optax.adam(1e-3), Scale(images=8, side=16384))

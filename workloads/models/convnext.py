"""ConvNeXt-T (Liu et al. 2022, https://arxiv.org/abs/2201.03545). Different here: no stochastic depth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from .common import CLASSES, Scale, photographs, scaled, supervised

STAGES = (96, 192, 384, 768)
DEPTHS = (3, 3, 9, 3)


class ChannelNorm(eqx.Module):
    """Layer norm over the channels of every pixel: (C, h, w) -> (C, h, w)."""

    norm: eqx.nn.LayerNorm

    def __init__(self, channels: int) -> None:
        self.norm = eqx.nn.LayerNorm(channels, eps=1e-6)

    def __call__(self, x: Array) -> Array:
        over_rows = jax.vmap(self.norm, 1, 1)
        return jax.vmap(over_rows, 1, 1)(x)


class Block(eqx.Module):
    """Depthwise 7x7, norm, four times as many channels and back: (C, h, w) -> (C, h, w)."""

    depthwise: eqx.nn.Conv2d
    norm: ChannelNorm
    expand: eqx.nn.Conv2d
    project: eqx.nn.Conv2d
    scale: Array

    def __init__(self, channels: int, key: Array) -> None:
        keys = jax.random.split(key, 3)
        self.depthwise = eqx.nn.Conv2d(channels, channels, 7, padding=3, groups=channels, key=keys[0])
        self.norm = ChannelNorm(channels)
        self.expand = eqx.nn.Conv2d(channels, 4 * channels, 1, key=keys[1])
        self.project = eqx.nn.Conv2d(4 * channels, channels, 1, key=keys[2])
        self.scale = jnp.full((channels, 1, 1), 1e-6, jnp.float32)

    def __call__(self, x: Array) -> Array:
        y = jax.nn.gelu(self.expand(self.norm(self.depthwise(x))), approximate=False)
        return x + self.scale * self.project(y)


class ConvNeXt(eqx.Module):
    """(3, h, w) -> (1000,)."""

    layers: list[eqx.Module]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 1 + len(STAGES) + sum(DEPTHS)))
        channels = scaled(STAGES[0], divide)
        self.layers = [eqx.nn.Conv2d(3, channels, 4, 4, key=next(keys)), ChannelNorm(channels)]
        for stage, depth in zip(STAGES, DEPTHS, strict=True):
            wider = scaled(stage, divide)
            if stage != STAGES[0]:
                self.layers += [ChannelNorm(channels), eqx.nn.Conv2d(channels, wider, 2, 2, key=next(keys))]
            self.layers += [Block(wider, next(keys)) for _ in range(depth)]
            channels = wider
        self.norm = eqx.nn.LayerNorm(channels, eps=1e-6)
        self.head = eqx.nn.Linear(channels, CLASSES, key=next(keys))

    def __call__(self, x: Array) -> Array:
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x.mean((1, 2))))


# 4096 images on 32 GPUs, as the authors train it.
NETWORK = supervised(
    "convnext", ConvNeXt, photographs, optax.adamw(4e-3, weight_decay=0.05), Scale(images=128, side=224)
)

"""ResNet-18 and ResNet-50 (He et al. 2016, https://arxiv.org/abs/1512.03385), ResNeXt-50 32x4d (Xie et al. 2017,
https://arxiv.org/abs/1611.05431). Group norm takes the place of batch norm.
"""

import functools
from typing import ClassVar

import equinox as eqx
import jax
import optax
from jax import Array

from .common import CLASSES, Scale, group_norm, photographs, scaled, supervised

STAGES = (64, 128, 256, 512)


class Block(eqx.Module):
    """Two 3x3 convolutions beside a short cut: (C, h, w) -> (O, h / stride, w / stride)."""

    first: eqx.nn.Conv2d
    first_norm: eqx.nn.GroupNorm
    second: eqx.nn.Conv2d
    second_norm: eqx.nn.GroupNorm
    shortcut: eqx.nn.Sequential | None

    expansion: ClassVar[int] = 1  # of a stage's channels

    def __init__(self, channels: int, out: int, stride: int, key: Array) -> None:
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(channels, out, 3, stride, padding=1, use_bias=False, key=keys[0])
        self.second = eqx.nn.Conv2d(out, out, 3, padding=1, use_bias=False, key=keys[1])
        self.first_norm, self.second_norm = group_norm(out), group_norm(out)
        self.shortcut = _shortcut(channels, out, stride, keys[2])

    def __call__(self, x: Array) -> Array:
        y = jax.nn.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(eqx.Module):
    """A 3x3 convolution of fewer channels between two 1x1 ones: (C, h, w) -> (4 O, h / stride, w / stride)."""

    convs: list[eqx.nn.Conv2d]
    norms: list[eqx.nn.GroupNorm]
    shortcut: eqx.nn.Sequential | None

    expansion: ClassVar[int] = 4
    groups: ClassVar[int] = 1
    widening: ClassVar[int] = 1  # of the 3x3 convolution

    def __init__(self, channels: int, out: int, stride: int, key: Array) -> None:
        keys, wide, inner = jax.random.split(key, 4), out * self.expansion, out * self.widening
        self.convs = [
            eqx.nn.Conv2d(channels, inner, 1, use_bias=False, key=keys[0]),
            eqx.nn.Conv2d(inner, inner, 3, stride, padding=1, groups=self.groups, use_bias=False, key=keys[1]),
            eqx.nn.Conv2d(inner, wide, 1, use_bias=False, key=keys[2]),
        ]
        self.norms = [group_norm(n) for n in (inner, inner, wide)]
        self.shortcut = _shortcut(channels, wide, stride, keys[3])

    def __call__(self, x: Array) -> Array:
        y = jax.nn.relu(self.norms[0](self.convs[0](x)))
        y = jax.nn.relu(self.norms[1](self.convs[1](y)))
        y = self.norms[2](self.convs[2](y))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class AggregatedBottleneck(Bottleneck):
    """A bottleneck of twice the channels, whose 3x3 convolution has 32 groups."""

    groups: ClassVar[int] = 32
    widening: ClassVar[int] = 2


def _shortcut(channels: int, out: int, stride: int, key: Array) -> eqx.nn.Sequential | None:
    if channels == out and stride == 1:
        return None
    return eqx.nn.Sequential([eqx.nn.Conv2d(channels, out, 1, stride, use_bias=False, key=key), group_norm(out)])


class ResNet(eqx.Module):
    """(3, h, w) -> (1000,)."""

    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    pool: eqx.nn.MaxPool2d
    blocks: list[Block | Bottleneck]
    head: eqx.nn.Linear

    def __init__(self, key: Array, divide: int, kind: type[Block | Bottleneck], depths: tuple[int, ...]) -> None:
        keys = iter(jax.random.split(key, 2 + sum(depths)))
        channels = scaled(STAGES[0], divide)
        self.stem = eqx.nn.Conv2d(3, channels, 7, 2, padding=3, use_bias=False, key=next(keys))
        self.norm = group_norm(channels)
        self.pool = eqx.nn.MaxPool2d(3, 2, padding=1)
        self.blocks = []
        for stage, depth in zip(STAGES, depths, strict=True):
            for i in range(depth):
                stride = 2 if i == 0 and stage != STAGES[0] else 1
                self.blocks.append(kind(channels, scaled(stage, divide), stride, next(keys)))
                channels = scaled(stage, divide) * kind.expansion
        self.head = eqx.nn.Linear(channels, CLASSES, key=next(keys))

    def __call__(self, x: Array) -> Array:
        x = self.pool(jax.nn.relu(self.norm(self.stem(x))))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


_PUBLISHED = Scale(256, 224)
_OPTIMIZER = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9))

NETWORK = supervised(
    "resnet18", functools.partial(ResNet, kind=Block, depths=(2, 2, 2, 2)), photographs, _OPTIMIZER, _PUBLISHED
)
# Compiled, not timed.
RESNET50 = supervised(
    "resnet50", functools.partial(ResNet, kind=Bottleneck, depths=(3, 4, 6, 3)), photographs, _OPTIMIZER, _PUBLISHED
)
RESNEXT50 = supervised(
    "resnext50",
    functools.partial(ResNet, kind=AggregatedBottleneck, depths=(3, 4, 6, 3)),
    photographs,
    _OPTIMIZER,
    _PUBLISHED,
)

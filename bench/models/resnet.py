"""ResNet-18 (He et al. 2016, https://arxiv.org/abs/1512.03385). Different here: group norm in the place of batch norm."""

import equinox as eqx
import jax
import optax
from jax import Array

from .common import CLASSES, group_norm, photographs, scaled, supervised

STAGES = (64, 128, 256, 512)
BLOCKS = 2  # a stage


class Block(eqx.Module):
    """Two 3x3 convolutions beside a short cut: (C, h, w) -> (O, h / stride, w / stride)."""

    first: eqx.nn.Conv2d
    first_norm: eqx.nn.GroupNorm
    second: eqx.nn.Conv2d
    second_norm: eqx.nn.GroupNorm
    shortcut: eqx.nn.Sequential | None

    def __init__(self, channels: int, out: int, stride: int, key: Array) -> None:
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(channels, out, 3, stride, padding=1, use_bias=False, key=keys[0])
        self.second = eqx.nn.Conv2d(out, out, 3, padding=1, use_bias=False, key=keys[1])
        self.first_norm, self.second_norm = group_norm(out), group_norm(out)
        project = eqx.nn.Conv2d(channels, out, 1, stride, use_bias=False, key=keys[2])
        same = channels == out and stride == 1
        self.shortcut = None if same else eqx.nn.Sequential([project, group_norm(out)])

    def __call__(self, x: Array) -> Array:
        y = jax.nn.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet18(eqx.Module):
    """(3, h, w) -> (1000,)."""

    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    pool: eqx.nn.MaxPool2d
    blocks: list[Block]
    head: eqx.nn.Linear

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 2 + len(STAGES) * BLOCKS))
        channels = scaled(STAGES[0], divide)
        self.stem = eqx.nn.Conv2d(3, channels, 7, 2, padding=3, use_bias=False, key=next(keys))
        self.norm = group_norm(channels)
        self.pool = eqx.nn.MaxPool2d(3, 2, padding=1)
        self.blocks = []
        for stage in STAGES:
            for i in range(BLOCKS):
                stride = 2 if i == 0 and stage != STAGES[0] else 1
                self.blocks.append(Block(channels, scaled(stage, divide), stride, next(keys)))
                channels = scaled(stage, divide)
        self.head = eqx.nn.Linear(channels, CLASSES, key=next(keys))

    def __call__(self, x: Array) -> Array:
        x = self.pool(jax.nn.relu(self.norm(self.stem(x))))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


NETWORK = supervised(
    "resnet18",
    ResNet18,
    photographs,
    optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, momentum=0.9)),
)

"""EfficientNet-B0 (Tan and Le 2019, https://arxiv.org/abs/1905.11946).

Different here: group norm in the place of batch norm, no dropout and no stochastic depth. The squeezes are a quarter of what
enters a block, also where that is fewer than 16 channels.
"""

import equinox as eqx
import jax
import optax
from jax import Array

from .common import CLASSES, Scale, group_norm, photographs, scaled, supervised

STEM, HEAD = 32, 1280
STAGES = (  # expansion, kernel, channels, stride of the first block, blocks
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 2, 3),
    (6, 5, 112, 1, 3),
    (6, 5, 192, 2, 4),
    (6, 3, 320, 1, 1),
)


class Normed(eqx.Module):
    """A convolution and its norm: (C, h, w) -> (O, h / stride, w / stride)."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm

    def __init__(self, channels: int, out: int, size: int, stride: int = 1, groups: int = 1, *, key: Array) -> None:
        padding = size // 2
        self.conv = eqx.nn.Conv2d(channels, out, size, stride, padding, groups=groups, use_bias=False, key=key)
        self.norm = group_norm(out)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.conv(x))


class SqueezeExcite(eqx.Module):
    """Every channel times a number that depends on the means of all: (C, h, w) -> (C, h, w)."""

    squeeze: eqx.nn.Conv2d
    excite: eqx.nn.Conv2d

    def __init__(self, channels: int, squeezed: int, key: Array) -> None:
        keys = jax.random.split(key)
        self.squeeze = eqx.nn.Conv2d(channels, squeezed, 1, key=keys[0])
        self.excite = eqx.nn.Conv2d(squeezed, channels, 1, key=keys[1])

    def __call__(self, x: Array) -> Array:
        means = x.mean((1, 2), keepdims=True)
        return x * jax.nn.sigmoid(self.excite(jax.nn.silu(self.squeeze(means))))


class MBConv(eqx.Module):
    """Expand, depthwise, squeeze and excite, project: (C, h, w) -> (O, h / stride, w / stride)."""

    expand: Normed | None
    depthwise: Normed
    attend: SqueezeExcite
    project: Normed
    residual: bool

    def __init__(self, channels: int, out: int, expansion: int, size: int, stride: int, key: Array) -> None:
        keys = jax.random.split(key, 4)
        inner = expansion * channels
        self.expand = Normed(channels, inner, 1, key=keys[0]) if expansion > 1 else None
        self.depthwise = Normed(inner, inner, size, stride, inner, key=keys[1])
        self.attend = SqueezeExcite(inner, channels // 4, keys[2])
        self.project = Normed(inner, out, 1, key=keys[3])
        self.residual = channels == out and stride == 1

    def __call__(self, x: Array) -> Array:
        y = x if self.expand is None else jax.nn.silu(self.expand(x))
        y = self.project(self.attend(jax.nn.silu(self.depthwise(y))))
        return x + y if self.residual else y


class EfficientNet(eqx.Module):
    """(3, h, w) -> (1000,)."""

    stem: Normed
    blocks: list[MBConv]
    last: Normed
    head: eqx.nn.Linear

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 3 + sum(stage[-1] for stage in STAGES)))
        channels = scaled(STEM, divide)
        self.stem = Normed(3, channels, 3, 2, key=next(keys))
        self.blocks = []
        for expansion, size, published, stride, count in STAGES:
            for i in range(count):
                out = scaled(published, divide)
                self.blocks.append(MBConv(channels, out, expansion, size, 1 if i else stride, next(keys)))
                channels = out
        self.last = Normed(channels, scaled(HEAD, divide), 1, key=next(keys))
        self.head = eqx.nn.Linear(scaled(HEAD, divide), CLASSES, key=next(keys))

    def __call__(self, x: Array) -> Array:
        x = jax.nn.silu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(jax.nn.silu(self.last(x)).mean((1, 2)))


NETWORK = supervised(
    "efficientnet",
    EfficientNet,
    photographs,
    optax.chain(optax.add_decayed_weights(1e-5), optax.rmsprop(1e-3, decay=0.9, eps=1e-3, momentum=0.9)),
    Scale(images=256, side=224),  # the paper names no batch
)

"""3-D U-Net (Cicek et al. 2016, https://arxiv.org/abs/1606.06650).

Different here: group norm in the place of batch norm, padding 1, labels for every voxel, and one channel as in CT.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from .common import Scale, group_norm, scaled, supervised

STAGES = ((32, 64), (64, 128), (128, 256), (256, 512))  # of both convolutions on the way down
LABELS = 3
SIDE = 32  # of a volume, in voxels


class Double(eqx.Module):
    """Two 3x3x3 convolutions, each with norm and relu: (C, d, h, w) -> (O, d, h, w)."""

    layers: eqx.nn.Sequential

    def __init__(self, channels: int, middle: int, out: int, key: Array) -> None:
        keys = jax.random.split(key)
        relu = eqx.nn.Lambda(jax.nn.relu)
        first = eqx.nn.Conv3d(channels, middle, 3, padding=1, key=keys[0])
        second = eqx.nn.Conv3d(middle, out, 3, padding=1, key=keys[1])
        self.layers = eqx.nn.Sequential([first, group_norm(middle), relu, second, group_norm(out), relu])

    def __call__(self, x: Array) -> Array:
        return self.layers(x)


class UNet3d(eqx.Module):
    """(1, d, h, w) -> (labels, d, h, w); sides are multiples of 8."""

    down: list[Double]
    pool: eqx.nn.MaxPool3d
    up: list[eqx.nn.ConvTranspose3d]
    merge: list[Double]
    head: eqx.nn.Conv3d

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 3 * len(STAGES)))
        widths = [tuple(scaled(c, divide) for c in stage) for stage in STAGES]
        self.down, channels = [], 1
        for middle, out in widths:
            self.down.append(Double(channels, middle, out, next(keys)))
            channels = out
        self.pool = eqx.nn.MaxPool3d(2, 2)
        pairs = [(coarse, fine) for (_, coarse), (_, fine) in zip(widths[1:], widths, strict=False)][::-1]
        self.up = [eqx.nn.ConvTranspose3d(c, c, 2, 2, key=next(keys)) for c, _ in pairs]
        self.merge = [Double(c + f, f, f, next(keys)) for c, f in pairs]
        self.head = eqx.nn.Conv3d(pairs[-1][1], LABELS, 1, key=next(keys))

    def __call__(self, x: Array) -> Array:
        skips = []
        for double in self.down:
            x = double(self.pool(x) if skips else x)
            skips.append(x)
        for skip, up, merge in zip(skips[-2::-1], self.up, self.merge, strict=True):
            x = merge(jnp.concatenate([skip, up(x)]))
        return self.head(x)


def batch(key: Array, images: int, side: int = SIDE) -> tuple[Array, Array]:
    """Stand-ins for scans: (N, 1, side, side, side) and the label of every voxel (N, side, side, side)."""
    x, y = jax.random.split(key)
    size = (side, side, side)
    return jax.random.normal(x, (images, 1, *size)), jax.random.randint(y, (images, *size), 0, LABELS)


# The paper's 132x132x116 voxels, made a multiple of 8; a batch of two is what nnU-Net takes of such patches.
NETWORK = supervised("unet3d", UNet3d, batch, optax.sgd(1e-2, momentum=0.99, nesterov=True), Scale(images=2, side=128))

"""DCGAN (Radford et al. 2016, https://arxiv.org/abs/1511.06434): 64x64 images from noise.

The generator is the published one. The paper does not print the discriminator: here it is the generator turned round.
Different here: kernels of 4x4, as in most implementations, and group norm in the place of batch norm.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import Array

from .common import SIDE, Network, Scale, descend, group_norm, scaled, start

STAGES = (1024, 512, 256, 128)  # from 4x4 pixels to 32x32
NOISE = 100


class Generator(eqx.Module):
    """(100,) -> (3, 64, 64)."""

    layers: eqx.nn.Sequential

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 1 + len(STAGES)))
        first, *rest = (scaled(stage, divide) for stage in STAGES)
        relu = eqx.nn.Lambda(jax.nn.relu)
        layers = [eqx.nn.ConvTranspose2d(NOISE, first, 4, use_bias=False, key=next(keys)), group_norm(first), relu]
        for channels, out in zip((first, *rest), rest, strict=False):
            up = eqx.nn.ConvTranspose2d(channels, out, 4, 2, padding=1, use_bias=False, key=next(keys))
            layers += [up, group_norm(out), relu]
        last = eqx.nn.ConvTranspose2d(rest[-1], 3, 4, 2, padding=1, key=next(keys))
        self.layers = eqx.nn.Sequential([*layers, last, eqx.nn.Lambda(jnp.tanh)])

    def __call__(self, noise: Array) -> Array:
        return self.layers(noise[:, None, None])


class Discriminator(eqx.Module):
    """(3, 64, 64) -> (), positive where the image is held to be real."""

    layers: eqx.nn.Sequential

    def __init__(self, key: Array, divide: int) -> None:
        keys = iter(jax.random.split(key, 1 + len(STAGES)))
        first, *rest = (scaled(stage, divide) for stage in reversed(STAGES))
        leaky = eqx.nn.Lambda(lambda x: jax.nn.leaky_relu(x, 0.2))
        layers = [eqx.nn.Conv2d(3, first, 4, 2, padding=1, key=next(keys)), leaky]
        for channels, out in zip((first, *rest), rest, strict=False):
            down = eqx.nn.Conv2d(channels, out, 4, 2, padding=1, use_bias=False, key=next(keys))
            layers += [down, group_norm(out), leaky]
        self.layers = eqx.nn.Sequential([*layers, eqx.nn.Conv2d(rest[-1], 1, 4, key=next(keys))])

    def __call__(self, image: Array) -> Array:
        return self.layers(image).squeeze()


def drawn(model: Any, key: Array) -> Any:
    """The model with weights of a standard deviation of 0.02, as published."""
    weights = lambda m: [x.weight for x in m.layers if isinstance(x, eqx.nn.Conv | eqx.nn.ConvTranspose)]
    keys = jax.random.split(key, len(weights(model)))
    return eqx.tree_at(
        weights, model, [0.02 * jax.random.normal(k, w.shape) for k, w in zip(keys, weights(model), strict=True)]
    )


def build(key: Array, divide: int) -> tuple[Generator, Discriminator]:
    keys = jax.random.split(key)
    return tuple(drawn(kind(k, divide), k) for kind, k in zip((Generator, Discriminator), keys, strict=True))


def batch(key: Array, images: int, side: int = SIDE) -> tuple[Array, Array]:
    """Noise (N, 100) and stand-ins for photographs (N, 3, side, side)."""
    noise, real = jax.random.split(key)
    return jax.random.normal(noise, (images, NOISE)), jnp.tanh(jax.random.normal(real, (images, 3, side, side)))


ADAM = optax.adam(2e-4, b1=0.5)


def discriminating(discriminator: Discriminator, real: Array, fake: Array) -> Array:
    score = jax.vmap(discriminator)
    return jnp.mean(jax.nn.softplus(-score(real))) + jnp.mean(jax.nn.softplus(score(fake)))


def generating(generator: Generator, discriminator: Discriminator, noise: Array) -> Array:
    return jnp.mean(jax.nn.softplus(-jax.vmap(discriminator)(jax.vmap(generator)(noise))))


type Models = tuple[Generator, Discriminator]


def step(models: Models, states: tuple, noise: Array, real: Array) -> tuple[Models, tuple, Array]:
    """The discriminator learns, then the generator against it. The loss is the sum of both binary cross entropies."""
    generator, discriminator = models
    fake = jax.vmap(generator)(noise)
    discriminator, second, loss = descend(ADAM, discriminating, discriminator, states[1], real, fake)
    generator, first, fooled = descend(ADAM, generating, generator, states[0], discriminator, noise)
    return (generator, discriminator), (first, second), loss + fooled


NETWORK = Network(
    "dcgan",
    build,
    batch,
    lambda models: tuple(start(ADAM, model) for model in models),
    step,
    Scale(images=128, side=SIDE),
)

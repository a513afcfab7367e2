"""A generator of transposed convolutions learns to draw discs from noise, against a discriminator of strided ones.

Both are equinox modules of this package's layers, and optax trains them. The mean picture that is drawn comes closer to the
mean picture of the data.

    python -m examples.gan
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pallas_conv as pc

NOISE = 16
adam = optax.adam(2e-3, b1=0.5)


def discs(key, count):
    """Pictures (count, 1, 16, 16) of a bright disc each, somewhere near the middle, on a dark ground."""
    centres = 7.5 + 2 * jax.random.normal(key, (count, 2, 1, 1))
    return jnp.tanh(4 - jnp.linalg.norm(jnp.mgrid[:16, :16][None] - centres, axis=1, keepdims=True))


def networks(key):
    keys = jax.random.split(key, 4)
    wide = {"kernel_size": 8, "stride": 4, "padding": 2}
    first = pc.ConvTranspose2d(NOISE, 32, 4, activation="relu", key=keys[0])
    generator = [first, pc.ConvTranspose2d(32, 1, **wide, activation="tanh", key=keys[1])]
    discriminator = [pc.Conv2d(1, 32, **wide, activation="leaky_relu", key=keys[2]), pc.Conv2d(32, 1, 4, key=keys[3])]
    return eqx.nn.Sequential(generator), eqx.nn.Sequential(discriminator)


def doubt(discriminator, real, fake):
    score = jax.vmap(discriminator)
    return jnp.mean(jax.nn.softplus(-score(real)) + jax.nn.softplus(score(fake)))


def failure(generator, discriminator, noise):
    return jnp.mean(jax.nn.softplus(-jax.vmap(discriminator)(jax.vmap(generator)(noise))))


def descend(model, state, loss, *arrays):
    updates, state = adam.update(eqx.filter_grad(loss)(model, *arrays), state)
    return eqx.apply_updates(model, updates), state


@eqx.filter_jit
def step(drawing, judging, key):
    for_data, for_noise = jax.random.split(key)
    noise = jax.random.normal(for_noise, (32, NOISE, 1, 1))
    judging = descend(*judging, doubt, discs(for_data, 32), jax.vmap(drawing[0])(noise))
    return descend(*drawing, failure, judging[0], noise), judging


def main():
    for_networks, for_noise, for_data, *for_steps = jax.random.split(jax.random.key(0), 204)
    drawing, judging = [(model, adam.init(eqx.filter(model, eqx.is_array))) for model in networks(for_networks)]
    noise, distances = jax.random.normal(for_noise, (256, NOISE, 1, 1)), []
    for i, key in enumerate(for_steps):
        if i % 50 == 0:
            apart = jax.vmap(drawing[0])(noise).mean(0) - discs(for_data, 256).mean(0)
            distances.append(jnp.abs(apart).mean().item())
            print(f"after {i} steps the mean of drawn pictures is {distances[-1]:.3f} from that of the data")
        drawing, judging = step(drawing, judging, key)
    return distances


if __name__ == "__main__":
    main()

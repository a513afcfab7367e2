"""A generator of transposed convolutions learns to draw discs from noise, against a discriminator of strided ones.

Both are equinox modules of this package's layers; the two optimisers are optax's. The mean picture that is drawn comes closer
to the mean picture of the data.

    python -m examples.gan
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pallas_conv as pc

NOISE = 16


def discs(key, count):
    """Pictures (count, 1, 16, 16) of a bright disc each, somewhere near the middle, on a dark ground."""
    centres = 7.5 + 2 * jax.random.normal(key, (count, 2, 1, 1))
    return jnp.tanh(4 - jnp.linalg.norm(jnp.mgrid[:16, :16][None] - centres, axis=1, keepdims=True))


def networks(key):
    keys = jax.random.split(key, 6)
    up = {"kernel_size": 4, "stride": 2, "padding": 1, "activation": "relu"}
    down = up | {"activation": "leaky_relu"}
    first = pc.ConvTranspose2d(NOISE, 32, 4, activation="relu", key=keys[0])
    last = pc.ConvTranspose2d(16, 1, **up | {"activation": "tanh"}, key=keys[2])
    generator = [first, pc.ConvTranspose2d(32, 16, **up, key=keys[1]), last]
    discriminator = [pc.Conv2d(1, 16, **down, key=keys[3]), pc.Conv2d(16, 32, **down, key=keys[4])]
    return eqx.nn.Sequential(generator), eqx.nn.Sequential([*discriminator, pc.Conv2d(32, 1, 4, key=keys[5])])


def draw(generator, noise):
    return jax.vmap(generator)(noise[:, :, None, None])


def doubt(discriminator, real, fake):
    score = jax.vmap(discriminator)
    return jnp.mean(jax.nn.softplus(-score(real)) + jax.nn.softplus(score(fake)))


def failure(generator, discriminator, noise):
    return jnp.mean(jax.nn.softplus(-jax.vmap(discriminator)(draw(generator, noise))))


drawing_adam, judging_adam = optax.adam(2e-3, b1=0.5), optax.adam(5e-4, b1=0.5)


def start(adam, model):
    return model, adam.init(eqx.filter(model, eqx.is_array))


def descend(adam, pair, loss, *arrays):
    """A model and the state of its optimiser, one step down the gradient of loss(model, *arrays)."""
    model, state = pair
    updates, state = adam.update(eqx.filter_grad(loss)(model, *arrays), state)
    return eqx.apply_updates(model, updates), state


@eqx.filter_jit
def step(drawing, judging, key):
    for_data, for_noise = jax.random.split(key)
    noise = jax.random.normal(for_noise, (32, NOISE))
    judging = descend(judging_adam, judging, doubt, discs(for_data, 32), draw(drawing[0], noise))
    drawing = descend(drawing_adam, drawing, failure, judging[0], noise)
    return drawing, judging


def main():
    generator, discriminator = networks(jax.random.key(0))
    drawing, judging = start(drawing_adam, generator), start(judging_adam, discriminator)
    noise, distances = jax.random.normal(jax.random.key(1), (256, NOISE)), []
    for i in range(201):
        if i % 50 == 0:
            apart = draw(drawing[0], noise).mean(0) - discs(jax.random.key(2), 256).mean(0)
            distances.append(jnp.abs(apart).mean().item())
            print(f"after {i} steps the mean of drawn pictures is {distances[-1]:.3f} from that of the data")
        drawing, judging = step(drawing, judging, jax.random.key(i))
    for row in jnp.concatenate(draw(drawing[0], noise[:4])[:, 0, ::2], axis=1):
        print("".join(" .:-=+*#%@"[int(4.99 * (1 + pixel))] for pixel in row))
    return distances


if __name__ == "__main__":
    main()

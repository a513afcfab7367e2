"""A small network of this package's layers learns to tell horizontal stripes from vertical ones.

The layers are used like equinox's, with the activation fused onto the convolution. At the end the same network runs as stock
equinox, and `explain` says which kernel would serve a larger layer on an H100, which need not be there.

    python -m examples.quickstart
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import pallas_conv as pc


def stripes(key, count):
    """Images (count, 1, 16, 16) of noisy stripes, and whether they are vertical."""
    of_phase, of_label, of_noise = jax.random.split(key, 3)
    phase = jax.random.uniform(of_phase, (count, 1, 1), maxval=2 * jnp.pi)
    vertical = jax.random.bernoulli(of_label, shape=(count, 1, 1))
    waves = jnp.broadcast_to(jnp.sin(jnp.arange(16.0)[None, None] + phase), (count, 16, 16))
    images = jnp.where(vertical, waves, waves.mT)[:, None]
    return images + jax.random.normal(of_noise, images.shape), vertical.ravel()


def network(key):
    one, two, three = jax.random.split(key, 3)
    first = pc.Conv2d(1, 16, 3, padding=1, activation="relu", key=one)
    second = pc.Conv2d(16, 32, 3, stride=2, padding=1, activation="relu", key=two)
    return eqx.nn.Sequential([first, second, pc.Conv2d(32, 1, 8, key=three)])


def loss(model, images, labels):
    scores = jax.vmap(model)(images).ravel()
    return jnp.mean(jax.nn.softplus(jnp.where(labels, -scores, scores)))


@eqx.filter_jit
def step(model, images, labels):
    value, gradients = eqx.filter_value_and_grad(loss)(model, images, labels)
    return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradients)), value


def main():
    for_network, for_test, *for_steps = jax.random.split(jax.random.key(0), 62)
    model, losses = network(for_network), []
    for key in for_steps:
        model, value = step(model, *stripes(key, 32))
        losses.append(value.item())
    print(f"loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses)} steps")

    test = stripes(for_test, 32)
    stock = pc.convert(model, to="equinox")
    difference = abs(loss(model, *test) - loss(stock, *test)).item()
    print(f"loss on new images: {loss(model, *test):.3f}; stock equinox differs from that by {difference:.1e}\n")
    layer = pc.Conv2d(64, 64, 3, padding=1, activation="silu", compute_dtype=jnp.bfloat16, key=jax.random.key(0))
    images = jax.ShapeDtypeStruct((16, 64, 256, 256), jnp.float32)
    print(pc.explain(jax.vmap(layer), images, device="h100"))
    return losses, difference


if __name__ == "__main__":
    main()

"""A WaveNet of causal, dilated convolutions learns to continue a melody of three sines.

Each layer looks twice as far back as the one before. Its gate is two activations fused onto convolutions, and its residual is
added inside another. Training is one `scan`; in the end the network goes on by itself, from its own samples.

    python -m examples.wavenet
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pallas_conv as pc

DILATIONS = (1, 2, 4, 8, 16, 32)
SEEN = 1 + sum(DILATIONS)  # samples on which the next one depends


class Layer(eqx.Module):
    filter: pc.Conv1d
    gate: pc.Conv1d
    out: pc.Conv1d

    def __init__(self, channels, dilation, key):
        keys = jax.random.split(key, 3)
        causal = {"kernel_size": 2, "padding": ((dilation, 0),), "dilation": dilation}
        self.filter = pc.Conv1d(channels, channels, **causal, activation="tanh", key=keys[0])
        self.gate = pc.Conv1d(channels, channels, **causal, activation="sigmoid", key=keys[1])
        self.out = pc.Conv1d(channels, channels, 1, key=keys[2])

    def __call__(self, x, *, key=None):
        return self.out(self.filter(x) * self.gate(x), residual=x)


def wavenet(key, channels=16):
    first, last, *keys = jax.random.split(key, 2 + len(DILATIONS))
    layers = [Layer(channels, *of) for of in zip(DILATIONS, keys, strict=True)]
    return eqx.nn.Sequential([pc.Conv1d(1, channels, 1, key=first), *layers, pc.Conv1d(channels, 1, 1, key=last)])


def melody(start, samples):
    time = start + jnp.arange(samples, dtype=jnp.float32)
    return sum(jnp.sin(2 * jnp.pi * time / period) for period in (9.0, 23.0, 50.0))[None] / 3


def loss(model, key):
    pieces = jax.vmap(lambda start: melody(start, 256))(jax.random.uniform(key, (8,), maxval=1000))
    return jnp.mean((jax.vmap(model)(pieces)[:, :, SEEN:-1] - pieces[:, :, SEEN + 1 :]) ** 2)


@eqx.filter_jit
def train(model, steps):
    arrays, static = eqx.partition(model, eqx.is_array)
    adam = optax.adam(3e-3)

    def step(carry, key):
        arrays, state = carry
        value, gradients = jax.value_and_grad(lambda arrays: loss(eqx.combine(arrays, static), key))(arrays)
        updates, state = adam.update(gradients, state)
        return (optax.apply_updates(arrays, updates), state), value

    (arrays, _), losses = jax.lax.scan(step, (arrays, adam.init(arrays)), jax.random.split(jax.random.key(1), steps))
    return eqx.combine(arrays, static), losses


@eqx.filter_jit
def go_on(model, sound, samples):
    def step(sound, _):
        following = model(sound)[:, -1:]
        return jnp.concatenate([sound[:, 1:], following], axis=1), following[0, 0]

    return jax.lax.scan(step, sound, length=samples)[1]


def main():
    model, losses = train(wavenet(jax.random.key(0)), 300)
    print(f"loss: {losses[0]:.4f} at first, {losses[-1]:.5f} after {losses.size} steps")
    continued = go_on(model, melody(2000.0, SEEN), 40)
    error = jnp.abs(continued - melody(2000.0 + SEEN, 40)[0])
    print(f"40 samples of its own: {error.mean():.3f} from the melody, which swings between -1 and 1")
    return losses, error


if __name__ == "__main__":
    main()

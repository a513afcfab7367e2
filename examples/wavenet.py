"""A WaveNet of causal, dilated convolutions learns to continue a melody of three sines.

Each layer looks twice as far back as the one before. Its gate is two activations fused onto convolutions, and its residual is
added inside another. In the end the network goes on by itself, from its own samples.

    python -m examples.wavenet
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pallas_conv as pc

DILATIONS = (1, 2, 4, 8, 16, 32)
SEEN = 1 + sum(DILATIONS)  # samples on which the next one depends
STEPS = 200
adam = optax.adam(optax.cosine_decay_schedule(1e-2, STEPS))


class Layer(eqx.Module):
    filter: pc.Conv1d
    gate: pc.Conv1d
    out: pc.Conv1d

    def __init__(self, channels, dilation, key):
        one, two, three = jax.random.split(key, 3)
        causal = {"kernel_size": 2, "padding": ((dilation, 0),), "dilation": dilation}
        self.filter = pc.Conv1d(channels, channels, **causal, activation="tanh", key=one)
        self.gate = pc.Conv1d(channels, channels, **causal, activation="sigmoid", key=two)
        self.out = pc.Conv1d(channels, channels, 1, key=three)

    def __call__(self, x, *, key=None):
        return self.out(self.filter(x) * self.gate(x), residual=x)


def wavenet(key, channels=16):
    first, last, *keys = jax.random.split(key, 2 + len(DILATIONS))
    layers = map(Layer, [channels] * len(keys), DILATIONS, keys)
    return eqx.nn.Sequential([pc.Conv1d(1, channels, 1, key=first), *layers, pc.Conv1d(channels, 1, 1, key=last)])


def melody(start, samples):
    time = start + jnp.arange(samples, dtype=jnp.float32)
    return sum(jnp.sin(2 * jnp.pi * time / period) for period in (9.0, 23.0, 50.0))[None] / 3


def loss(model, key):
    pieces = jax.vmap(lambda start: melody(start, 256))(jax.random.uniform(key, (8,), maxval=1000))
    return jnp.mean((jax.vmap(model)(pieces)[:, :, SEEN:-1] - pieces[:, :, SEEN + 1 :]) ** 2)


@eqx.filter_jit
def step(model, state, key):
    value, gradients = eqx.filter_value_and_grad(loss)(model, key)
    updates, state = adam.update(gradients, state)
    return eqx.apply_updates(model, updates), state, value


def main():
    model = wavenet(jax.random.key(0))
    state = adam.init(eqx.filter(model, eqx.is_array))
    for key in jax.random.split(jax.random.key(1), STEPS):
        model, state, value = step(model, state, key)
    seen, continued, predict = melody(2000.0, SEEN), [], eqx.filter_jit(model)
    for _ in range(40):
        continued.append(predict(seen)[:, -1:])
        seen = jnp.concatenate([seen[:, 1:], continued[-1]], axis=1)
    error = jnp.abs(jnp.concatenate(continued, axis=1) - melody(2000.0 + SEEN, 40)).mean().item()
    print(f"mean squared error of the next sample, after {STEPS} steps: {value:.6f}")
    print(f"40 samples of its own: {error:.3f} from the melody, which swings between -1 and 1")
    return value.item(), error


if __name__ == "__main__":
    main()

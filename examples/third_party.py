"""A model that knows nothing of this package is converted in the middle of its training.

`CNN` is written the way a library of equinox models would write it, with `equinox.nn` layers and a training step of its own.
`pc.convert` takes the model and the state of its optimiser, shares their arrays, and converts them back for a checkpoint.

    python -m examples.third_party
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pallas_conv as pc

# ------------------------------------------------- somebody else's module


class CNN(eqx.Module):
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 16, kernel_size=4, key=keys[0]),
            eqx.nn.MaxPool2d(kernel_size=2, stride=2),
            jax.nn.relu,
            eqx.nn.Conv2d(16, 16, kernel_size=3, groups=16, key=keys[1]),
            eqx.nn.Conv2d(16, 32, kernel_size=1, key=keys[2]),
            jnp.ravel,
            eqx.nn.Linear(32 * 10 * 10, 10, key=keys[3]),
            jax.nn.log_softmax,
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


optimizer = optax.adam(1e-3)


@eqx.filter_jit
def train_step(model, opt_state, images):
    def loss(model):
        return -jnp.mean(jnp.diagonal(jax.vmap(model)(images)))  # image i is of digit i

    value, gradients = eqx.filter_value_and_grad(loss)(model)
    updates, opt_state = optimizer.update(gradients, opt_state)
    return eqx.apply_updates(model, updates), opt_state, value


# ------------------------------------------------- and what you do with it


def train(model, opt_state, steps):
    digits, losses = jax.random.normal(jax.random.key(0), (10, 1, 28, 28)), []  # stand-ins
    for i in steps:
        noise = jax.random.normal(jax.random.key(i), digits.shape)
        model, opt_state, value = train_step(model, opt_state, digits + noise)
        losses.append(value.item())
    print(f"{type(model.layers[0]).__module__.partition('.')[0]}: loss", *(f"{value:.5f}" for value in losses[::3]))
    return model, opt_state, losses


def main():
    model = CNN(jax.random.key(1))
    model, opt_state, before = train(model, optimizer.init(eqx.filter(model, eqx.is_array)), range(10))
    print(pc.convert_report(model))
    ours, _, converted = train(pc.convert(model), pc.convert(opt_state), range(10, 20))
    _, _, stock = train(model, opt_state, range(10, 20))
    checkpoint = pc.convert(ours, to="equinox")
    print("back in equinox:", jax.tree.structure(checkpoint) == jax.tree.structure(model))
    return before, converted, stock, checkpoint


if __name__ == "__main__":
    main()

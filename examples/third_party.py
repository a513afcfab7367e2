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
    convs: list
    linear: eqx.nn.Linear

    def __init__(self, key):
        one, two, three = jax.random.split(key, 3)
        self.convs = [eqx.nn.Conv2d(1, 16, 4, stride=2, key=one), eqx.nn.Conv2d(16, 16, 3, groups=16, key=two)]
        self.linear = eqx.nn.Linear(16 * 11 * 11, 10, key=three)

    def __call__(self, x):
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return jax.nn.log_softmax(self.linear(x.ravel()))


optimizer = optax.adam(3e-3)


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
    print(f"{type(model.convs[0]).__module__.partition('.')[0]}: loss", *(f"{value:.5f}" for value in losses[::3]))
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

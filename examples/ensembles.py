"""Four networks train at once, and a network gets the gradient of every example by itself.

Both are `vmap`. The ensemble trains by as many convolutions as one network does, each of them for all four. Gradients of
single examples, here clipped as in differentially private training, are weight gradients that are not summed over the batch.

    python -m examples.ensembles
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import pallas_conv as pc

LONGEST = 5.0  # norm of the gradient of an example


def network(key):
    one, two = jax.random.split(key)
    convs = [pc.Conv1d(1, 16, 5, padding=2, activation="tanh", key=one), pc.Conv1d(16, 1, 5, padding=2, key=two)]
    return eqx.nn.Sequential(convs)


def loss(model, noisy, clean):
    return jnp.mean((model(noisy) - clean) ** 2)


def batch_loss(model, noisy, clean):
    return jnp.mean(jax.vmap(loss, in_axes=(None, 0, 0))(model, noisy, clean))


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(eqx.if_array(0), None, None))
def ensemble_step(model, noisy, clean):
    value, gradients = eqx.filter_value_and_grad(batch_loss)(model, noisy, clean)
    return eqx.apply_updates(model, jax.tree.map(lambda g: -0.05 * g, gradients)), value


@eqx.filter_jit
@eqx.filter_vmap(in_axes=(None, 0, 0))
def gradients_of_examples(model, noisy, clean):
    return eqx.filter_grad(loss)(model, noisy, clean)


def clipped_mean(gradients):
    """The mean over examples of their gradients, of which longer ones are shortened to LONGEST."""
    norms = jnp.sqrt(sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(gradients)))
    shares = jnp.minimum(1, LONGEST / norms) / norms.size
    return jax.tree.map(lambda g: jnp.tensordot(shares, g, 1), gradients), norms


def main():
    phases = jax.random.uniform(jax.random.key(0), (32, 1, 1), maxval=2 * jnp.pi)
    clean = jnp.sin(jnp.linspace(0, 12, 64)[None, None] + phases)
    noisy = clean + 0.5 * jax.random.normal(jax.random.key(1), clean.shape)

    models = eqx.filter_vmap(network)(jax.random.split(jax.random.key(2), 4))
    one = network(jax.random.key(2))
    alone = len(pc.explain(eqx.filter_grad(batch_loss), one, noisy, clean))
    four = len(pc.explain(ensemble_step, models, noisy, clean))
    print(f"convolutions of a step: {alone} for a network, {four} for four")
    losses = []
    for _ in range(50):
        models, values = ensemble_step(models, noisy, clean)
        losses.append(values)
    print("losses of the four, first and last:", losses[0], losses[-1])

    each = gradients_of_examples(one, noisy, clean)
    mean, norms = clipped_mean(each)
    print(f"gradients of {norms.size} examples, of norms {norms.min():.2f} to {norms.max():.2f}")
    return losses, each, mean


if __name__ == "__main__":
    main()

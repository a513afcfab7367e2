"""A small 3-D U-Net finds balls in noisy volumes, in bfloat16 with parameters in float32.

`compute_dtype` is what input and weight are multiplied in; sums, parameters and their gradients stay float32. Activations are
not kept but computed again for the backward pass, except for results of convolutions: that is `pc.dots_saveable`.

    python -m examples.segment3d
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pallas_conv as pc

adam = optax.adam(1e-2)


class UNet3d(eqx.Module):
    stem: pc.Conv3d
    coarse: eqx.nn.Sequential
    head: pc.Conv3d

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        how = {"activation": "silu", "compute_dtype": jnp.bfloat16}
        self.stem = pc.Conv3d(1, 8, 3, padding=1, **how, key=keys[0])
        down = pc.Conv3d(8, 16, 4, stride=2, padding=1, **how, key=keys[1])
        up = pc.ConvTranspose3d(16, 8, 4, stride=2, padding=1, **how, key=keys[2])
        self.coarse = eqx.nn.Sequential([down, up])
        self.head = pc.Conv3d(16, 1, 3, padding=1, compute_dtype=jnp.bfloat16, key=keys[3])

    def __call__(self, volume):
        fine = self.stem(volume)
        return self.head(jnp.concatenate([fine, self.coarse(fine)])).astype(jnp.float32)


def balls(key, count):
    """Noisy volumes (count, 1, 16, 16, 16) with a brighter ball in each, and where the balls are."""
    of_centre, of_radius, of_noise = jax.random.split(key, 3)
    centres = jax.random.uniform(of_centre, (count, 3, 1, 1, 1), minval=4, maxval=12)
    radii = jax.random.uniform(of_radius, (count, 1, 1, 1, 1), minval=2, maxval=5)
    inside = jnp.linalg.norm(jnp.mgrid[:16, :16, :16][None] - centres, axis=1, keepdims=True) < radii
    return inside + jax.random.normal(of_noise, inside.shape), inside


def loss(model, volumes, inside):
    scores = jax.vmap(eqx.filter_checkpoint(model, policy=pc.dots_saveable))(volumes)
    return jnp.mean(jax.nn.softplus(jnp.where(inside, -scores, scores)))


@eqx.filter_jit
def step(model, state, key):
    value, gradients = eqx.filter_value_and_grad(loss)(model, *balls(key, 4))
    updates, state = adam.update(gradients, state)
    return eqx.apply_updates(model, updates), state, value


def main():
    for_model, for_test, *for_steps = jax.random.split(jax.random.key(0), 62)
    model = UNet3d(for_model)
    state = adam.init(eqx.filter(model, eqx.is_array))
    for key in for_steps:
        model, state, value = step(model, state, key)
    volumes, inside = balls(for_test, 8)
    found = jax.vmap(model)(volumes) > 0
    dice = (2 * jnp.sum(found & inside) / (jnp.sum(found) + jnp.sum(inside))).item()
    print(f"loss after {len(for_steps)} steps: {value:.3f}")
    print(f"Dice coefficient on new volumes: {dice:.2f}, where 1 is perfect; parameters are {model.stem.weight.dtype}")
    return value.item(), dice


if __name__ == "__main__":
    main()

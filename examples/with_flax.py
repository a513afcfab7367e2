"""An autoencoder of Flax trains through this package.

`nnx.Conv` takes the convolution it calls as an argument. `nnx.ConvTranspose` calls `jax.lax` itself, so it is traced inside
`pc.lax.patched()`. The explanation counts the convolutions that are still JAX's own: none.

    python -m examples.with_flax
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import pallas_conv as pc


class Autoencoder(nnx.Module):
    def __init__(self, rngs, **conv):
        self.down = nnx.Conv(3, 16, (4, 4), strides=2, rngs=rngs, **conv)
        self.middle = nnx.Conv(16, 16, (3, 3), rngs=rngs, **conv)
        self.up = nnx.ConvTranspose(16, 3, (4, 4), strides=(2, 2), rngs=rngs)

    def __call__(self, images):
        hidden = nnx.relu(self.middle(nnx.relu(self.down(images))))
        return self.up(hidden)


def loss(model, images):
    return jnp.mean((model(images) - images) ** 2)


@nnx.jit
def step(model, optimizer, images):
    value, gradients = nnx.value_and_grad(loss)(model, images)
    optimizer.update(model, gradients)
    return value


def train(model):
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    coarse = jax.random.normal(jax.random.key(0), (8, 4, 4, 3))
    images = jax.image.resize(coarse, (8, 16, 16, 3), "linear")  # Flax is channels last
    return [step(model, optimizer, images).item() for _ in range(40)]


def main():
    stock = train(Autoencoder(nnx.Rngs(0)))
    model = Autoencoder(nnx.Rngs(0), conv_general_dilated=pc.lax.conv_general_dilated)
    with pc.lax.patched():
        ours = train(model)
        explanation = pc.explain(lambda images: loss(model, images), jnp.ones((8, 16, 16, 3)), device="h100")
    print(f"loss, stock Flax:   {stock[0]:.5f} to {stock[-1]:.5f}")
    print(f"loss, through ours: {ours[0]:.5f} to {ours[-1]:.5f}")
    print(f"{len(explanation)} convolutions, of which {explanation.unconverted} call jax.lax itself")
    return stock, ours, explanation


if __name__ == "__main__":
    main()

"""A network trains on four devices, each with its share of the batch.

Parameters are on every device, images are divided, and the training step is the one for a single device. What devices send each
other is read from the compiled program: gradients and the loss, summed, and no image. Here the devices are parts of the CPU.

    python -m examples.devices
"""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import pallas_conv as pc


def network(key):
    one, two = jax.random.split(key)
    first = pc.Conv2d(3, 32, 3, padding=1, activation="gelu", key=one)
    return eqx.nn.Sequential([first, pc.Conv2d(32, 3, 3, padding=1, key=two)])


@eqx.filter_jit
def step(model, noisy, clean):
    def loss(model):
        return jnp.mean((jax.vmap(model)(noisy) - clean) ** 2)

    value, gradients = eqx.filter_value_and_grad(loss)(model)
    return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradients)), value


MESSAGE = re.compile(r"= (.*?) (all-[a-z]+|collective-permute|reduce-scatter)(?:-start)?\(")  # in a compiled program


def main():
    jax.config.update("jax_num_cpu_devices", 4)  # before JAX is first used; GPUs are found without it
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    colours = jax.random.uniform(jax.random.key(1), (16, 3, 1, 1))
    clean = jnp.broadcast_to(colours, (16, 3, 32, 32))
    noisy = clean + 0.3 * jax.random.normal(jax.random.key(2), clean.shape)
    model = network(jax.random.key(0))
    _, alone = step(model, noisy, clean)

    model = eqx.filter_shard(model, NamedSharding(mesh, P()))
    noisy, clean = jax.device_put((noisy, clean), NamedSharding(mesh, P("batch")))
    program = step.lower(model, noisy, clean).compile().compiled.as_text()
    losses = []
    for _ in range(30):
        model, value = step(model, noisy, clean)
        losses.append(value.item())
    print(f"loss on one device {alone:.5f}, on {mesh.size} {losses[0]:.5f}; after {len(losses)} steps {losses[-1]:.5f}")
    for shapes, kind in MESSAGE.findall(program):
        print(f"a step sends {kind}: {shapes}")
    return alone.item(), losses, MESSAGE.findall(program)


if __name__ == "__main__":
    main()

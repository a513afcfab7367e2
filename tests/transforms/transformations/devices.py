"""`shard_map`, around and inside derivatives."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tests.transforms.transformations.registry import args, batch_loss, images, transformation


def mesh_of(count, **kwargs):
    return jax.make_mesh((count,), ("d",), **kwargs)


def sharded_loss(f, check_vma):
    return jax.shard_map(
        lambda *at: lax.psum(batch_loss(f.strided)(*at), "d"),
        mesh=mesh_of(3, axis_types=(AxisType.Auto,)),
        in_specs=(P(), P(), P("d")),
        out_specs=P(),
        check_vma=check_vma,
    )


@transformation
def shard_map_of_vmap(f, d):
    mesh = mesh_of(3, axis_types=(AxisType.Auto,))
    return jax.shard_map(images(f.strided), mesh=mesh, in_specs=(P(), P(), P("d")), out_specs=P("d"))(*args(d))


@transformation
def grad_of_shard_map(f, d):
    return [jax.grad(sharded_loss(f, True), i)(*args(d)) for i in (0, 1, 2, (0, 1, 2))]


@transformation
def grad_of_shard_map_without_check_vma(f, d):
    return [jax.grad(sharded_loss(f, False), i)(*args(d)) for i in (0, 1, 2, (0, 1, 2))]


@transformation
def grad_inside_shard_map(f, d):
    mesh = mesh_of(3, axis_types=(AxisType.Auto,))
    gradient = jax.grad(batch_loss(f.strided), (0, 1, 2))
    specs = (P(), P(), P("d"))
    return jax.shard_map(gradient, mesh=mesh, in_specs=specs, out_specs=specs)(*args(d))


@transformation
def hvp_of_shard_map(f, d):
    gradient = jax.grad(sharded_loss(f, True), (0, 1, 2))
    return jax.jvp(gradient, args(d), jax.tree.map(jnp.cos, args(d)))[1]


@transformation
def jvp_inside_shard_map(f, d):
    def push(w, b, x):
        return [jax.jvp(lambda t, i=i: images(f.strided)(*[*(w, b, x)[:i], t, *(w, b, x)[i + 1 :]]), (t,), (t,))[1]
                for i, t in enumerate((w, b, x))]  # fmt: skip

    mesh = mesh_of(3, axis_types=(AxisType.Auto,))
    return jax.shard_map(push, mesh=mesh, in_specs=(P(), P(), P("d")), out_specs=P("d"))(*args(d))

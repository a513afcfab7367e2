"""The forward pass, and `vmap` over every operand and several."""

import jax
import jax.numpy as jnp

from tests.transforms.transformations.registry import args, example, images, transformation


@transformation
def forward_pass(f, d):
    return f.strided(*example(d))


@transformation
def vmap_x(f, d):
    return images(f.strided)(*args(d))


@transformation
def vmap_w(f, d):
    return jax.vmap(f.strided, (0, None, None))(d.ws, d.b, d.x[0])


@transformation
def vmap_b(f, d):
    return jax.vmap(f.strided, (None, 0, None))(d.w, d.bs, d.x[0])


@transformation
def vmap_w_b(f, d):
    return jax.vmap(f.strided, (0, 0, None))(d.ws, d.bs, d.x[0])


@transformation
def vmap_x_b(f, d):
    return jax.vmap(f.strided, (None, 0, 0))(d.w, d.bs, d.x[:2])


@transformation
def vmap_x_w(f, d):
    return jax.vmap(f.strided, (0, None, 0))(d.ws, d.b, d.x[:2])


@transformation
def vmap_all(f, d):
    return jax.vmap(f.strided)(d.ws, d.bs, d.x[:2])


@transformation
def vmap_nested_x(f, d):
    return jax.vmap(images(f.strided), (None, None, 0))(d.w, d.b, d.xs)


@transformation
def vmap_models_sharing_x(f, d):
    return jax.vmap(images(f.strided), (0, 0, None))(d.ws, d.bs, d.x)


@transformation
def vmap_images_over_models_sharing_x(f, d):
    return jax.vmap(jax.vmap(f.strided, (0, 0, None)), (None, None, 0))(d.ws, d.bs, d.x)


@transformation
def vmap_ensemble(f, d):
    return jax.vmap(images(f.strided))(d.ws, d.bs, d.xs)


@transformation
def vmap_ensemble_of_ensembles(f, d):
    twice = lambda t: jnp.stack([t, 2 * t, 3 * t])
    return jax.vmap(jax.vmap(images(f.strided)))(*map(twice, (d.ws, d.bs, d.xs)))


@transformation
def vmap_models_of_ensembles_sharing_x(f, d):
    twice = lambda t: jnp.stack([t, 2 * t, 3 * t])
    return jax.vmap(jax.vmap(images(f.strided)), (0, 0, None))(twice(d.ws), twice(d.bs), d.xs)


@transformation
def vmap_other_axes(f, d):
    moved = jnp.moveaxis(d.ws, 0, 3), d.bs.T, jnp.moveaxis(d.x[:2], 0, -1)
    return jax.vmap(f.strided, (3, 1, -1), out_axes=1)(*moved)


@transformation
def vmap_size_zero(f, d):
    none = lambda t: t[:0]
    return [
        jax.vmap(f.strided, axes)(*map(lambda t, a: t if a is None else none(t), ts, axes))
        for axes, ts in (
            ((None, None, 0), args(d)),
            ((0, None, None), (d.ws, *example(d)[1:])),
            ((0, 0, None), (d.ws, d.bs, d.x[0])),
            ((None, 0, None), (d.w, d.bs, d.x[0])),
        )
    ]

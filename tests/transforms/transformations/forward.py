"""Forward mode, linearization and its transpose, Jacobians."""

import jax
import jax.numpy as jnp

from tests.transforms.transformations.registry import args, example, images, transformation


@transformation
def jvp_of_all(f, d):
    return jax.jvp(images(f.strided), args(d), jax.tree.map(jnp.cos, args(d)))


@transformation
def jvp_x(f, d):
    return jax.jvp(lambda x: images(f.strided)(d.w, d.b, x), (d.x,), (jnp.cos(d.x),))


@transformation
def jvp_w(f, d):
    return jax.jvp(lambda w: images(f.strided)(w, d.b, d.x), (d.w,), (jnp.cos(d.w),))


@transformation
def jvp_b(f, d):
    return jax.jvp(lambda b: images(f.strided)(d.w, b, d.x), (d.b,), (jnp.cos(d.b),))


@transformation
def vmap_of_jvp(f, d):
    push = lambda *dots: jax.jvp(f.strided, example(d), dots)[1]
    return jax.vmap(push)(d.ws, d.bs, d.x[:2]), jax.vmap(push, (0, None, None))(d.ws, d.b, d.x[1])


@transformation
def linearize(f, d):
    y, push = jax.linearize(images(f.strided), *args(d))
    return y, push(*jax.tree.map(jnp.cos, args(d))), push(*jax.tree.map(jnp.sin, args(d)))


@transformation
def linearize_and_transpose(f, d):
    _, push = jax.linearize(images(f.strided), *args(d))
    return jax.linear_transpose(push, *args(d))(d.ct)


@transformation
def jacfwd_w(f, d):
    return jax.jacfwd(f.strided)(*example(d))


@transformation
def jacfwd_x_b(f, d):
    return jax.jacfwd(f.strided, (1, 2))(*example(d))


@transformation
def jacfwd_of_vmap(f, d):
    return jax.jacfwd(images(f.strided), 1)(*args(d))


@transformation
def jacfwd_of_jacrev(f, d):
    return jax.jacfwd(jax.jacrev(f.strided))(*example(d))


@transformation
def jacrev_of_jacfwd(f, d):
    return jax.jacrev(jax.jacfwd(f.strided, 2))(*example(d))

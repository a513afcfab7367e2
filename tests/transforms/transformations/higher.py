"""Derivatives of second and third order."""

import jax
import jax.numpy as jnp

from tests.transforms.transformations.registry import args, batch_loss, example, images, loss, transformation


@transformation
def hvp_forward_over_reverse(f, d):
    at = args(d)
    return jax.jvp(jax.grad(batch_loss(f.strided), (0, 1, 2)), at, jax.tree.map(jnp.cos, at))


@transformation
def hvp_of_single_operands(f, d):
    ds = []
    for i in range(3):
        gradient = lambda t, i=i: jax.grad(batch_loss(f.strided), (0, 1, 2))(*[*args(d)[:i], t, *args(d)[i + 1 :]])
        ds.append(jax.jvp(gradient, (args(d)[i],), (jnp.cos(args(d)[i]),))[1])
    return ds


@transformation
def hvp_reverse_over_forward(f, d):
    directional = lambda *at: jax.jvp(batch_loss(f.strided), at, jax.tree.map(jnp.cos, at))[1]
    return jax.grad(directional, (0, 1, 2))(*args(d))


@transformation
def hvp_reverse_over_reverse(f, d):
    def slope(*at):
        gs = jax.grad(batch_loss(f.strided), (0, 1, 2))(*at)
        return sum(jnp.vdot(g, jnp.cos(t)) for g, t in zip(gs, at, strict=True))

    return jax.grad(slope, (0, 1, 2))(*args(d))


@transformation
def hvp_of_an_ensemble(f, d):
    def hvp(*at):
        return jax.jvp(jax.grad(batch_loss(f.strided), (0, 1, 2)), at, jax.tree.map(jnp.cos, at))[1]

    return jax.vmap(hvp)(d.ws, d.bs, d.xs), jax.vmap(hvp, (0, 0, None))(d.ws, d.bs, d.x)


@transformation
def hessian_of_w(f, d):
    return jax.hessian(loss(f.strided))(*example(d))


@transformation
def hessian_of_all(f, d):
    return jax.hessian(loss(f.strided), (0, 1, 2))(*example(d))


@transformation
def gradient_penalty(f, d):
    """The double backward of WGAN-GP, per example."""

    def penalty(w, b):
        norms = jax.vmap(lambda x: (jnp.linalg.norm(jax.grad(loss(f.strided), 2)(w, b, x)) - 1) ** 2)(d.x)
        return jnp.sum(norms)

    return jax.grad(penalty, (0, 1))(d.w, d.b)


@transformation
def third_order(f, d):
    first = lambda *at: jax.grad(batch_loss(f.strided))(*at)
    second = lambda *at: jnp.vdot(jax.jvp(first, at, jax.tree.map(jnp.cos, at))[1], jnp.cos(at[0]))
    return jax.grad(second, (0, 1, 2))(*args(d))


@transformation
def third_order_forward(f, d):
    def along(g):
        return lambda *at: jax.jvp(g, at, jax.tree.map(jnp.cos, at))[1]

    return along(along(along(images(f.strided))))(*args(d))

"""Checkpoints, loops and branches."""

import functools

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax import lax

import pallas_conv as pc
from tests.transforms.transformations.registry import batch_loss, example, images, loss, transformation


def deep(call, policy=None):
    """Checkpointed layers one after the other."""
    step = jax.checkpoint(images(call), policy=policy)
    return lambda us, cs, h: functools.reduce(lambda h, p: step(*p, h), zip(us, cs, strict=True), h)


@transformation
def checkpoint(f, d):
    return jax.grad(lambda *p: jnp.sum(jnp.sin(deep(f.same)(*p, d.h))), (0, 1))(d.us, d.cs)


@transformation
def checkpoint_with_policy(f, d):
    return jax.grad(lambda *p: jnp.sum(jnp.sin(deep(f.same, pc.dots_saveable)(*p, d.h))), (0, 1))(d.us, d.cs)


@transformation
def hvp_of_checkpoint(f, d):
    gradient = jax.grad(lambda *p: jnp.sum(jnp.sin(deep(f.same)(*p, d.h))), (0, 1))
    return jax.jvp(gradient, (d.us, d.cs), (d.us, d.cs))


def scanned(call):
    return lambda us, cs, h: lax.scan(lambda h, p: (jnp.sin(images(call)(*p, h)), None), h, (us, cs))[0]


@transformation
def scan_over_layers(f, d):
    return jax.value_and_grad(lambda *p: jnp.sum(scanned(f.same)(*p)), (0, 1, 2))(d.us, d.cs, d.h)


@transformation
def scan_over_data(f, d):
    total = lambda w, b: lax.scan(lambda s, x: (s + batch_loss(f.strided)(w, b, x), None), 0.0, d.xs)[0]
    return jax.value_and_grad(total, (0, 1))(d.w, d.b)


@transformation
def scan_under_vmap(f, d):
    return jax.vmap(scanned(f.same), (None, None, 0))(d.us, d.cs, jnp.stack([d.h, 2 * d.h]))


@transformation
def hvp_of_scan(f, d):
    gradient = jax.grad(lambda *p: jnp.sum(scanned(f.same)(*p, d.h)), (0, 1))
    return jax.jvp(gradient, (d.us, d.cs), (d.us, d.cs))[1]


@transformation
def cond(f, d):
    branch = lambda *at: lax.cond(jnp.sum(at[2]) > 0, images(f.strided), lambda *at: 2 * images(f.strided)(*at), *at)
    return [
        jax.value_and_grad(lambda *at: jnp.sum(jnp.sin(branch(*at))), (0, 1, 2))(d.w, d.b, s * d.x) for s in (1, -1)
    ]


@transformation
def cond_under_vmap(f, d):
    choose = lambda x: lax.cond(jnp.sum(x) > 0, f.strided, lambda *at: 2 * f.strided(*at), d.w, d.b, x)
    return jax.vmap(choose)(d.x)


@transformation
def fori_loop(f, d):
    return lax.fori_loop(0, 3, lambda i, h: jnp.sin(images(f.same)(d.us[i], d.cs[i], h)), d.h)


def looped(call, kind):
    def run(us, cs, h):
        step = lambda s: (s[0] + 1, jnp.sin(images(call)(us[s[0]], cs[s[0]], s[1])))
        return eqxi.while_loop(lambda s: s[0] < 3, step, (jnp.int32(0), h), max_steps=3, kind=kind)[1]

    return run


@transformation
def checkpointed_while_loop(f, d):
    return jax.value_and_grad(lambda *p: jnp.sum(looped(f.same, "checkpointed")(*p)), (0, 1, 2))(d.us, d.cs, d.h)


@transformation
def bounded_while_loop(f, d):
    return jax.value_and_grad(lambda *p: jnp.sum(looped(f.same, "bounded")(*p)), (0, 1, 2))(d.us, d.cs, d.h)


@transformation
def inside_custom_vjp(f, d):
    wrapped = jax.custom_vjp(lambda *at: jnp.sum(jnp.sin(f.strided(*at))))
    wrapped.defvjp(lambda *at: jax.vjp(loss(f.strided), *at), lambda pull, ct: pull(2 * ct))
    return jax.grad(wrapped, (0, 1, 2))(*example(d))


@transformation
def custom_root_of_gradients(f, d):
    """A transposed linear map inside another transformation."""
    pull = lambda *at: jax.vjp(f.strided, *at)[1](d.ct[0])
    return jax.vjp(pull, *example(d))[1](jax.tree.map(jnp.cos, example(d)))

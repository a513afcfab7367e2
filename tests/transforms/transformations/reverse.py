"""Reverse mode: gradients of all operands, of batches, examples and ensembles."""

import jax
import jax.numpy as jnp

from tests.transforms.transformations.registry import args, batch_loss, example, images, loss, transformation


@transformation
def grad_w(f, d):
    return jax.grad(loss(f.strided))(*example(d))


@transformation
def grad_b(f, d):
    return jax.grad(loss(f.strided), 1)(*example(d))


@transformation
def grad_x(f, d):
    return jax.grad(loss(f.strided), 2)(*example(d))


@transformation
def value_and_grad_of_all(f, d):
    return jax.value_and_grad(loss(f.strided), (0, 1, 2))(*example(d))


@transformation
def grad_of_vmap(f, d):
    return jax.grad(batch_loss(f.strided), (0, 1, 2))(*args(d))


@transformation
def value_and_grad_of_vmap(f, d):
    return jax.value_and_grad(batch_loss(f.strided), (0, 1, 2))(*args(d))


@transformation
def per_example_gradients(f, d):
    return jax.vmap(jax.grad(loss(f.strided), (0, 1)), (None, None, 0))(*args(d))


@transformation
def per_example_gradients_of_all(f, d):
    return jax.vmap(jax.grad(loss(f.strided), (0, 1, 2)), (None, None, 0))(*args(d))


@transformation
def gradients_of_per_example_bias(f, d):
    per_example = lambda w, b, x: jnp.sum(jnp.sin(jax.vmap(f.strided, (None, 0, 0))(w, b, x)))
    return jax.grad(per_example, (0, 1, 2))(d.w, d.bs, d.x[:2])


@transformation
def ensemble_gradients(f, d):
    return jax.vmap(jax.grad(batch_loss(f.strided), (0, 1, 2)))(d.ws, d.bs, d.xs)


@transformation
def ensemble_gradients_sharing_x(f, d):
    return jax.vmap(jax.grad(batch_loss(f.strided), (0, 1)), (0, 0, None))(d.ws, d.bs, d.x)


@transformation
def gradient_of_shared_x_of_an_ensemble(f, d):
    total = lambda x: jnp.sum(jax.vmap(batch_loss(f.strided), (0, 0, None))(d.ws, d.bs, x))
    return jax.grad(total)(d.x)


@transformation
def ensemble_per_example_gradients(f, d):
    per_example = jax.vmap(jax.grad(loss(f.strided), (0, 1)), (None, None, 0))
    return jax.vmap(per_example)(d.ws, d.bs, d.xs)


@transformation
def vjp_pulled_for_several_cotangents(f, d):
    _, pull = jax.vjp(images(f.strided), *args(d))
    return jax.vmap(pull)(d.cts)


@transformation
def jacrev_w(f, d):
    return jax.jacrev(f.strided)(*example(d))


@transformation
def jacrev_x_b(f, d):
    return jax.jacrev(f.strided, (1, 2))(*example(d))

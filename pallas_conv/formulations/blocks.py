"""A few images at a time: how many, what that costs, and the loop over them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..spec import Product
from .formulation import Cost, Formulation
from .programs.windows import made_of
from .sizes import Sizes


def images_at_once(formulation: Formulation, product: Product, cache: float | None) -> int:
    """A divisor of the batch: as many as fit into `cache` bytes with what they need. All of them without a cache."""
    if formulation.blocks is None or cache is None:
        return product.batch
    one, two = (Sizes.of(dataclasses.replace(product, batch=n)) for n in (1, 2))
    an_image = one.x + one.y + formulation.cost(two).temp - formulation.cost(one).temp
    most = max(1, int(formulation.blocks * cache / max(an_image, 1)))
    return max(n for n in range(1, product.batch + 1) if product.batch % n == 0 and n <= most)


def cost(formulation: Formulation, product: Product, cache: float | None) -> Cost:
    """The cost of the product, run in blocks of images."""
    whole = formulation.cost(Sizes.of(product))
    images = images_at_once(formulation, product, cache)
    if images == product.batch:
        return whole
    s = Sizes.of(dataclasses.replace(product, batch=images))
    return dataclasses.replace(whole, temp=formulation.cost(s).temp + s.x + s.y + s.w)


def run(program: Callable[[Array, Array], Array], role: str, images: int, a: Array, b: Array) -> Array:
    """The program over `images` images at a time; weight gradients are summed."""
    n = a.shape[0]
    if n == images:
        return program(a, b)
    a = lax.optimization_barrier(a)  # all of it has to be in memory; else what it is computed from might stay, too
    # Cut out of the whole array: with a new axis of size one XLA would copy it into the loop.
    block = lambda t, i: lax.dynamic_slice_in_dim(t, i * images, images)
    if role == "wgrad":
        dw = jax.eval_shape(lambda a, b: program(block(a, 0), block(b, 0)), a, b)
        add = lambda i, total: total + program(block(a, i), block(b, i))
        return lax.fori_loop(0, n // images, add, jnp.zeros(dw.shape, dw.dtype))
    y = jax.eval_shape(lambda a, b: program(block(a, 0), b), a, b)
    write = lambda i, y: lax.dynamic_update_slice_in_dim(y, program(block(a, i), b), i * images, 0)
    return lax.fori_loop(0, n // images, write, made_of(a, (n, *y.shape[1:]), y.dtype))

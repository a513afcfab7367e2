"""Index arithmetic on traced 32-bit integers, as kernels need it: mixed radices, constants by index, floors."""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

type Scalar = Array | int


def unravel(index: Array, sizes: Sequence[int]) -> tuple[list[Array], Array]:
    """The mixed-radix digits of an index, and what is left of it."""
    digits = []
    for n in reversed(sizes):
        digits.append(lax.rem(index, jnp.int32(n)) if n > 1 else jnp.int32(0))
        index = lax.div(index, jnp.int32(n)) if n > 1 else index
    return digits[::-1], index


def ravel(digits: Sequence[Array], sizes: Sequence[int]) -> Array:
    """The inverse of `unravel`."""
    return functools.reduce(lambda index, at: index * at[1] + at[0], zip(digits, sizes, strict=True), jnp.int32(0))


def select(values: tuple[int, ...], i: Array) -> Array:
    """values[i], from constants: a chain of selects, since a kernel has no table of constants to load from."""
    others = range(1, len(values)) if len(set(values)) > 1 else ()
    return functools.reduce(lambda out, j: jnp.where(i == j, values[j], out), others, jnp.int32(values[0]))


def floor_div(value: Array, by: int, least: int = 0) -> Array:
    """value // by, for a value of at least `least`. lax.div rounds towards zero, so it is given no negative number."""
    if by == 1:
        return value
    shift = -(-max(-least, 0) // by)
    return lax.div(value + shift * by, jnp.int32(by)) - shift


@dataclasses.dataclass(frozen=True)
class Span:
    """A range [first, last)."""

    first: Array
    last: Array

    @property
    def count(self) -> Array:
        return self.last - self.first


def next_step(loops: Sequence[Span], at: Sequence[Array]) -> list[Array]:
    """The next indices of nested loops, the last one innermost: the order of the loops, without a division."""
    found: list[Array] = []
    carry: Scalar = 1
    for span, index in zip(reversed(loops), reversed(at), strict=True):
        ends = index + carry == span.last
        found.insert(0, jnp.where(ends, span.first, index + carry))
        carry = ends.astype(jnp.int32)
    return found

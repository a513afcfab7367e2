"""The table of transformations, and the functions that they transform."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests.transforms.problems import Calls, Data

Case = Callable[[Calls, Data], Any]
REGISTERED: dict[str, Case] = {}


def transformation(case: Case) -> Case:
    REGISTERED[case.__name__] = case
    return case


def images(call):
    """A layer on a batch, as equinox does it."""
    return jax.vmap(call, (None, None, 0))


def loss(call):
    return lambda w, b, x: jnp.sum(jnp.sin(call(w, b, x)))


def batch_loss(call):
    return loss(images(call))


def args(d: Data):
    return d.w, d.b, d.x


def example(d: Data):
    return d.w, d.b, d.x[0]

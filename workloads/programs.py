"""The lax programs of a product on this CPU by the names of their formulations, and operands for them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_conv import formulations
from pallas_conv.equation import Equation
from pallas_conv.spec import Product
from pallas_conv.target import this_cpu


def programs(product: Product) -> dict[str, Callable[..., Any]]:
    """Stock's program and every formulation that serves the product, of operands as a layer has them."""
    cpu = this_cpu()
    names = [formulations.STOCK, *(f.name for f in formulations.serving(product))]
    how = {
        "op": Equation.of(product, ("xla",)).op,
        "dtype": product.out_dtype,
        "wide_sums": True,
        "cache": formulations.cache(cpu),
        "on_cpu": True,
        "narrow_matmuls": cpu.amx,
    }
    return {name: jax.jit(functools.partial(formulations.run_formulation, name, product, **how)) for name in names}


def timed_as(formulation: str) -> str:
    """The name of the program that was timed: outside of loops, those like stock's are stock's."""
    return formulations.STOCK if formulation in formulations.LIKE_STOCK else formulation


def operands(product: Product, seed: int = 0) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), product.compute_dtype) for shape in product.operand_shapes]

"""Is a result right? The bound that its error must keep."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..spec import Product
from .reference import reference, rounded_to_tf32


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Largest errors against float64, and the bound: twice that of the same-dtype baseline, and one ulp of the largest."""

    right: bool
    error: float
    baseline_error: float
    bound: float
    largest: float
    finite: bool


def judge(product: Product, operands: tuple[Any, ...], got: Any, baseline: Any) -> Verdict:
    """Hold a result against the exact one, with XLA's own result in the same dtype as the measure of what is fair.

    Where float32 operands may be multiplied as TF32, a baseline that did not is no measure: rounding the operands is.
    """
    want = reference(product, *operands)
    got, baseline = (np.asarray(a).astype(np.float64) for a in (got, baseline))
    if got.shape != want.shape:
        raise ValueError(f"{product.role} has shape {got.shape}, not {want.shape}")
    fair = _largest(baseline - want)
    if product.compute_dtype == "float32" and product.precision in (None, "default"):
        fair = max(fair, _largest(reference(product, *map(rounded_to_tf32, operands)) - want))
    largest = _largest(want)
    error, bound = _largest(got - want), 2 * fair + _ulp(largest, product.out_dtype)
    finite = bool(np.isfinite(got).all())
    return Verdict(finite and error <= bound, error, fair, bound, largest, finite)


def agree(got: Any, baseline: Any, dtype: str) -> tuple[bool, float]:
    """A coarse check at full size, where float64 is too slow: the difference from XLA's result as a part of its largest."""
    got, baseline = (a.astype(jnp.float32) for a in (got, baseline))
    part = float(jnp.max(jnp.abs(got - baseline)) / jnp.max(jnp.abs(baseline)))
    unit = 2.0**-10 if dtype == "float32" else float(jnp.finfo(dtype).eps)  # float32 may have been multiplied as TF32
    return part <= 4 * unit, part


def _largest(a: np.ndarray) -> float:
    return float(np.max(np.abs(a), initial=0.0))


def _ulp(largest: float, dtype: str) -> float:
    """The distance between neighbours in this dtype, at this magnitude."""
    return float(jnp.finfo(dtype).eps) * 2.0 ** math.floor(math.log2(largest or 1))

"""Is a result right? The bound that its error must keep."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..spec import Product
from .reference import reference, reference_at, rounded_to_tf32


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Largest errors against float64, and the bound (see `judge`) that the result's must keep."""

    right: bool
    error: float
    baseline_error: float
    bound: float
    largest: float
    finite: bool


def judge(product: Product, operands: tuple[Any, ...], got: Any, baseline: Any) -> Verdict:
    """Hold a result against the exact one: its error may be twice that of XLA's own result in the same dtype, plus one ulp.

    Where float32 operands may be multiplied as TF32, a baseline that did not is no measure: rounding the operands is.
    """
    return _judged(product, lambda *v: reference(product, *v), operands, got, baseline)


def judge_at(product: Product, at: np.ndarray, operands: tuple[Any, ...], got: Any, baseline: Any) -> Verdict:
    """`judge` by some pixels, see `reference_at`, at sizes where float64 is too slow for all of them."""
    got, baseline = (np.asarray(a)[at[:, 0], :, *at[:, 1:].T] for a in (got, baseline))
    return _judged(product, lambda *v: reference_at(product, at, *v), operands, got, baseline)


def some_pixels(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """(count, 1 + spatial axes) images and positions of (N, channels, *spatial): random ones, among them both far corners."""
    sizes = np.array([shape[0], *shape[2:]])
    at = np.random.default_rng(seed).integers(sizes, size=(count, len(sizes)))
    at[0], at[-1] = 0, sizes - 1
    return at


def _judged(
    product: Product, exact: Callable[..., np.ndarray], operands: tuple[Any, ...], got: Any, baseline: Any
) -> Verdict:
    want = exact(*operands)
    got, baseline = (np.asarray(a).astype(np.float64) for a in (got, baseline))
    if got.shape != want.shape:
        raise ValueError(f"{product.role} has shape {got.shape}, not {want.shape}")
    fair = _largest(baseline - want)
    if product.compute_dtype == "float32" and product.precision in (None, "default"):
        multiplied = map(rounded_to_tf32, operands[:2])
        fair = max(fair, _largest(exact(*multiplied, *operands[2:]) - want))
    largest = _largest(want)
    error, bound = _largest(got - want), 2 * fair + _ulp(largest, product.out_dtype)
    finite = bool(np.isfinite(got).all())
    return Verdict(finite and error <= bound, error, fair, bound, largest, finite)


def agree(got: Any, baseline: Any, dtype: str) -> tuple[bool, float]:
    """A coarse check of all pixels at full size, beside `judge_at`: the difference from XLA's, as a part of its largest."""
    got, baseline = (a.astype(jnp.float32) for a in (got, baseline))
    part = float(jnp.max(jnp.abs(got - baseline)) / jnp.max(jnp.abs(baseline)))
    unit = 2.0**-10 if dtype == "float32" else float(jnp.finfo(dtype).eps)  # float32 may have been multiplied as TF32
    return part <= 4 * unit, part


def _largest(a: np.ndarray) -> float:
    return float(np.max(np.abs(a), initial=0.0))


def _ulp(largest: float, dtype: str) -> float:
    """The distance between neighbours in this dtype, at this magnitude."""
    return float(jnp.finfo(dtype).eps) * 2.0 ** math.floor(math.log2(largest or 1))

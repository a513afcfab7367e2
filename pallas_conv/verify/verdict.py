"""Is a result right? The bound that its error must keep."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..spec import Product
from .reference import reference, reference_at, rounded_to_tf32, truncated_to_tf32

STEP_BYTES = 32  # of either operand, along the sum, that an instruction of a tensor core multiplies (PTX ISA, wgmma)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Largest errors against float64, and the bound that the result's must keep, see `judge`.

    error           of the result
    baseline_error  of XLA's own in the same dtype
    largest         magnitude of the exact result
    """

    right: bool
    error: float
    baseline_error: float
    bound: float
    largest: float
    finite: bool


def judge(product: Product, operands: tuple[Any, ...], got: Any, baseline: Any) -> Verdict:
    """Hold a result against the exact one: its error may be twice that of XLA's own result in the same dtype, plus one ulp.

    XLA may have computed it without tensor cores, and then its error does not show what they lose. Two terms do:
    where float32 may be multiplied as TF32, the error of reading it so takes the place of one of XLA's two if it is larger,
    see `_reading`, and sums may lose a last place of float32 at each step, see `_summing`.
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
    if not np.isfinite(baseline).all():
        raise ValueError("the baseline is not finite, so it is no measure of errors: draw smaller operands")
    error, own, largest = (_largest(a) for a in (got - want, baseline - want, want))
    bound = own + max(own, _reading(product, exact, operands, want))
    bound += _summing(product, largest) + _ulp(largest, product.out_dtype)
    finite = bool(np.isfinite(got).all())
    return Verdict(finite and error <= bound, error, own, bound, largest, finite)


def _reading(product: Product, exact: Callable[..., np.ndarray], operands: tuple[Any, ...], want: np.ndarray) -> float:
    """The largest error of the exact product of operands as tensor cores read them: TF32 instead of float32, or as they are.

    Weights are rounded beforehand. Pixels are truncated, all of them towards zero: where the products that a sum adds have the
    same sign, as they may behind a relu, so have their errors. Rounded pixels are as right.
    """
    if not product.may_use_tf32:
        return 0.0
    pixels, w, *added = operands
    read = (exact(as_read(pixels), rounded_to_tf32(w), *added) for as_read in (truncated_to_tf32, rounded_to_tf32))
    return max(_largest(result - want) for result in read)


def _summing(product: Product, largest: float) -> float:
    """The error that tensor cores may make in sums as large as `largest`: they truncate them to float32 at each step.

    That is a last place of float32 a step. Simulated sums of up to 100,000 products lost less, whatever their signs.
    """
    if product.compute_dtype not in ("bfloat16", "float16") and not product.may_use_tf32:
        return 0.0
    steps = math.ceil(_summands(product) * jnp.dtype(product.compute_dtype).itemsize / STEP_BYTES)
    return steps * float(jnp.finfo("float32").eps) * largest


def _summands(product: Product) -> int:
    """The most products that are added for one element of the result."""
    if product.role == "wgrad":
        return product.batch * math.prod(product.spec.out_spatial)
    channels = product.in_channels if product.role == "fprop" else product.out_channels
    return channels // product.spec.groups * math.prod(product.spec.kernel_spatial)


def agree(got: Any, baseline: Any, dtype: str) -> tuple[bool, float]:
    """A coarse check of all pixels at full size, beside `judge_at`: the difference from XLA's, as a part of its largest."""
    part = float(_difference(got, baseline))
    unit = 2.0**-10 if dtype == "float32" else float(jnp.finfo(dtype).eps)  # float32 may have been multiplied as TF32
    return part <= 4 * unit, part


@jax.jit
def _difference(got: Any, baseline: Any) -> Any:
    """The largest, as a part of the baseline's largest, or NaN; one program, since every shape is compiled anew."""
    got, baseline = (a.astype(jnp.float32) for a in (got, baseline))
    apart = jnp.abs(got - baseline)
    most = jnp.max(apart)
    part = jnp.where(most == 0, 0.0, most / jnp.max(jnp.abs(baseline)))  # both may be zero everywhere
    return jnp.where(jnp.isnan(apart).any(), jnp.nan, part)  # XLA's maximum of float32 passes over a NaN on a CPU


def _largest(a: np.ndarray) -> float:
    return float(np.max(np.abs(a), initial=0.0))


def _ulp(largest: float, dtype: str) -> float:
    """The distance between neighbours in this dtype, at this magnitude."""
    return float(jnp.finfo(dtype).eps) * 2.0 ** math.floor(math.log2(largest or 1))

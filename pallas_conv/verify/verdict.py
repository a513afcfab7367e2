"""Is a result right? The bound that its error must keep."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..spec import Product
from .reference import exactly, reference, reference_at, rounded_to_tf32, truncated_to_tf32

STEP_BYTES = 32  # of either operand, along the sum, that an instruction of a tensor core multiplies (PTX ISA, wgmma)
PLACES, LEAST_PLACES = 64, 8  # of a result that float64 judges
SUMMANDS = 2**24  # of all places of a gradient of weights or biases together


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
    return _judged(product, functools.partial(reference, product, *operands), got, baseline)


def judge_at(product: Product, at: np.ndarray, operands: tuple[Any, ...], got: Any, baseline: Any) -> Verdict:
    """`judge` at some places, see `reference_at`, at sizes where float64 is too slow for all of them."""
    there = [slice(None) if i is None else at[:, i] for i in _columns(product)]
    got, baseline = (np.asarray(a)[tuple(there)] for a in (got, baseline))
    return _judged(product, functools.partial(reference_at, product, at, *operands), got, baseline)


def some_places(product: Product, seed: int, count: int = PLACES) -> np.ndarray:
    """Random places of a product's first output, among them both far corners, as `reference_at` takes them.

    Fewer of a gradient of weights, an element of which is a sum over all pixels: of so many that float64 takes a second or two.
    """
    axes = [i for i, column in enumerate(_columns(product)) if column is not None]
    sizes = np.array(product.result_shapes[0])[axes]
    if product.outputs[0] in ("dw", "db"):
        count = min(count, max(LEAST_PLACES, SUMMANDS // summands(product)))
    at = np.random.default_rng(seed).integers(sizes, size=(count, len(sizes)))
    at[0], at[-1] = 0, sizes - 1
    return at


def _columns(product: Product) -> list[int | None]:
    """The column of places for each axis of a product's first output: none for the channels of an image, all are looked at."""
    axes = len(product.result_shapes[0])
    columns: list[int | None] = list(range(axes))
    if product.outputs[0] not in ("dw", "db"):
        channels = axes - product.spec.ndim - 1
        columns = [*range(channels), None, *range(channels, axes - 1)]
    return columns


def _judged(product: Product, exact: Callable[..., np.ndarray], got: Any, baseline: Any) -> Verdict:
    want = exact()
    got, baseline = (np.asarray(a).astype(np.float64) for a in (got, baseline))
    if got.shape != want.shape:
        raise ValueError(f"{product.role} has shape {got.shape}, not {want.shape}")
    if not np.isfinite(baseline).all():
        raise ValueError("the baseline is not finite, so it is no measure of errors: draw smaller operands")
    error, own, largest = (_largest(a) for a in (got - want, baseline - want, want))
    bound = own + max(own, _reading(product, exact, want))
    bound += _summing(product, largest) + _ulp(largest, product.result_dtypes[0])
    finite = bool(np.isfinite(got).all())
    return Verdict(finite and error <= bound, error, own, bound, largest, finite)


def _reading(product: Product, exact: Callable[..., np.ndarray], want: np.ndarray) -> float:
    """The largest error of the exact product of operands as tensor cores read them: TF32 instead of float32, or as they are.

    Weights are rounded beforehand. Pixels, be they of x or of a cotangent, are truncated, all of them towards zero: where the
    products that a sum adds have the same sign, as they may behind a relu, so have their errors. Rounded pixels are as right.
    The gradient of a bias is a sum of no products, so its cotangent is float32.
    """
    if not product.may_use_tf32 or product.outputs[0] == "db":
        return 0.0
    as_read = lambda pixels: {"x": pixels, "ct": pixels, "w": rounded_to_tf32}
    reads = (functools.partial(_read, as_read(pixels)) for pixels in (truncated_to_tf32, rounded_to_tf32))
    return max(_largest(exact(read=read) - want) for read in reads)


def _read(as_read: Mapping[str, Callable[[Any], np.ndarray]], name: str, a: np.ndarray) -> np.ndarray:
    return exactly(name, as_read[name](a) if name in as_read else a)


def _summing(product: Product, largest: float) -> float:
    """The error that tensor cores may make in sums as large as `largest`: they truncate them to float32 at each step.

    That is a last place of float32 a step. Simulated sums of up to 100,000 products lost less, whatever their signs.

    A gradient of weights adds a product for each pixel. A million of them makes this 0.7% of the largest for bfloat16. That is
    more than a few pixels contribute, so it takes small products to miss them. A gradient of biases is a sum of as many
    numbers, with whatever they are added, and has the same bound.
    """
    if product.compute_dtype not in ("bfloat16", "float16") and not product.may_use_tf32:
        return 0.0
    steps = math.ceil(summands(product) * jnp.dtype(product.compute_dtype).itemsize / STEP_BYTES)
    return steps * float(jnp.finfo("float32").eps) * largest


def summands(product: Product) -> int:
    """The most products, or cotangents, that are added for one element of the first output."""
    if product.outputs[0] in ("dw", "db"):
        return product.batch * math.prod(product.spec.out_spatial)
    channels = product.in_channels if product.role == "fprop" else product.out_channels
    return channels // product.spec.groups * math.prod(product.spec.kernel_spatial)


def agree(got: Any, baseline: Any, dtype: str) -> tuple[bool, float]:
    """A coarse check of all elements at full size, beside `judge_at`: the difference from XLA's, as a part of its largest."""
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

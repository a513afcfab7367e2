"""The bound where tensor cores are less exact than XLA's own: right results keep it on any operands, wrong ones do not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels.dense.plan import Config
from pallas_conv.spec import Product
from pallas_conv.verify.reference import reference, rounded_to_tf32, truncated_to_tf32
from pallas_conv.verify.verdict import Verdict, judge
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.dense.mutants import drop_a_tap
from tests.kernels.dense.proving import run

OPERANDS = {  # pixels and weights made of normal ones
    "normal": lambda x, w: (x, w),
    "relu": lambda x, w: (np.maximum(x, 0), w),
    "positive": lambda x, w: (np.abs(x), np.abs(w)),
    "narrow": lambda x, w: (1 + np.abs(x) % 0.1, np.abs(w)),  # whose mantissas lose most
}
p, box = cases.product, (1, 8, 8)
CASES = {
    "1x1 C=6": Case(
        "C=6", p("fprop", 1, (6, 16), (8, 8), 1, dtype="float32"), Config(box, 16, tile_k=8, mma_warpgroups=1)
    ),
    "1x1": Case(
        "1x1", p("fprop", 1, (32, 32), (8, 8), 1, dtype="float32"), Config(box, 32, tile_k=32, mma_warpgroups=1)
    ),
    "3x3": Case(
        "3x3",
        p("fprop", 1, (64, 16), (8, 8), 3, 1, 1, dtype="float32", bias=True, activation="relu"),
        Config(box, 16, tile_k=32, stages=2, mma_warpgroups=1),
    ),
    "input gradient": Case(
        "input gradient",
        p("dgrad", 1, (16, 64), (8, 8), 3, 1, 1, dtype="float32"),
        Config(box, 16, tile_k=32, stages=2, mma_warpgroups=1),
    ),
}


@functools.cache
def posed(case: str, kind: str) -> tuple[jax.Array, ...]:
    pixels, w, *added = (np.asarray(a) for a in CASES[case].operands())
    return tuple(jnp.asarray(a, "float32") for a in (*OPERANDS[kind](pixels, w), *added))


def judged(product: Product, operands: tuple[jax.Array, ...], got) -> Verdict:
    return judge(product, operands, np.asarray(got, product.out_dtype), cases.baseline(product, *operands)[0])


def as_read(product: Product, pixels, w, *added) -> np.ndarray:
    """An exact sum of what tensor cores multiply."""
    return reference(product, truncated_to_tf32(pixels), rounded_to_tf32(w), *added)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("1x1 C=6", "relu"),
        ("3x3", "positive"),
        ("input gradient", "relu"),
        *(pytest.param("1x1", kind, marks=pytest.mark.extended) for kind in OPERANDS),
        *(pytest.param("3x3", kind, marks=pytest.mark.extended) for kind in ("normal", "relu", "narrow")),
        pytest.param("input gradient", "positive", marks=pytest.mark.extended),
    ],
)
def test_a_right_float32_kernel_is_right(case, kind):
    operands = posed(case, kind)
    assert judged(CASES[case].product, operands, run(CASES[case], list(operands))[0]).right


WRONG = {
    "a tap dropped": lambda w: w.at[..., -1].set(0),
    "taps in another order": lambda w: jnp.flip(w, -1),
    "channels shifted": lambda w: jnp.roll(w, 1, 1),
    "weights truncated": lambda w: jnp.asarray(truncated_to_tf32(w)),
}


@pytest.mark.parametrize("kind", OPERANDS)
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_float32_product_is_wrong(fault, kind):
    product, (pixels, w, *added) = CASES["3x3"].product, posed("3x3", kind)
    got = as_read(product, pixels, WRONG[fault](w), *added)
    assert not judged(product, (pixels, w, *added), got).right


def test_a_float32_kernel_that_drops_taps_is_wrong(monkeypatch):
    case, operands = CASES["3x3"], posed("3x3", "relu")
    drop_a_tap(monkeypatch)
    assert not judged(case.product, operands, run(case, list(operands))[0]).right


@pytest.mark.parametrize("kind", OPERANDS)
@pytest.mark.parametrize("case", CASES)
def test_pixels_may_be_truncated_or_rounded(case, kind):
    product, operands = CASES[case].product, posed(case, kind)
    pixels, w, *added = operands
    assert judged(product, operands, as_read(product, *operands)).right
    assert judged(product, operands, reference(product, rounded_to_tf32(pixels), rounded_to_tf32(w), *added)).right


@pytest.mark.parametrize(("precision", "right"), [("tensorfloat32", True), ("high", False), ("highest", False)])
def test_only_where_the_precision_allows_it(precision, right):
    product, operands = dataclasses.replace(CASES["3x3"].product, precision=precision), posed("3x3", "normal")
    assert judged(product, operands, as_read(product, *operands)).right == right


def test_the_bound_of_positive_operands_is_not_twice_the_error_of_rounding():
    """A right kernel of positive operands errs by more: truncated, pixels all become smaller, and nothing cancels."""
    product, operands = CASES["3x3"].product, posed("3x3", "positive")
    pixels, w, *added = operands
    exact, rounded = (reference(product, *v) for v in (operands, (rounded_to_tf32(pixels), rounded_to_tf32(w), *added)))
    assert np.abs(as_read(product, *operands) - exact).max() > 3 * np.abs(rounded - exact).max()


def summed_by_tensor_cores(a: np.ndarray, b: np.ndarray, block: int) -> np.ndarray:
    """a @ b, modelled after Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021.

    The sum so far and the products of a block are aligned to the largest of them and truncated two bits below its float32.
    Their sum is truncated to float32.
    """
    exponent = lambda v: np.frexp(np.where(v == 0, 2.0**-200, v))[1] - 1
    truncated = lambda v, last: np.trunc(v / np.exp2(last)) * np.exp2(last)
    total = np.zeros((len(a), b.shape[1]))
    for k in range(0, a.shape[1], block):
        x, y = a[:, k : k + block, None], b[None, k : k + block]
        highest = np.maximum((exponent(x) + exponent(y)).max(1), exponent(total))
        total = truncated(total, highest - 25.0) + truncated(x * y, highest[:, None] - 25.0).sum(1)
        total = truncated(total, exponent(total) - 23.0)
    return total


@pytest.mark.parametrize("kind", OPERANDS)
@pytest.mark.parametrize(("dtype", "block"), [("bfloat16", 16), ("float32", 8)])
def test_what_tensor_cores_lose_in_long_sums_is_right(dtype, block, kind):
    product = p("fprop", 1, (8192, 16), (4, 4), 1, dtype=dtype, out_dtype="float32")
    rng = np.random.default_rng(0)
    pair = OPERANDS[kind](*(rng.standard_normal(shape) for shape in product.operand_shapes))
    x, w = (np.asarray(jnp.asarray(a, dtype), np.float64) for a in pair)
    if dtype == "float32":
        x, w = truncated_to_tf32(x).astype(np.float64), rounded_to_tf32(w).astype(np.float64)
    got = summed_by_tensor_cores(x.reshape(8192, -1).T, w.reshape(16, -1).T, block).T.reshape(1, 16, 4, 4)
    operands = tuple(jnp.asarray(a, dtype) for a in pair)
    verdict = judged(product, operands, got)
    assert verdict.right
    assert verdict.error > 2 * verdict.baseline_error  # XLA's, in float32
    lost = np.einsum("nyx,o->noyx", x[:, 7], w[:, 7, 0, 0])  # the products of one channel
    assert not judged(product, operands, got - lost).right

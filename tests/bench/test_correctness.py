"""The correctness gate opens for rounding and closes for anything else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.correctness import MEDIUM, SMALL
from pallas_conv.verify.reference import reference, reference_at, rounded_to_tf32, truncated_to_tf32
from pallas_conv.verify.verdict import agree, judge, judge_at, some_places

CASES = {c.name: c for c in SMALL + MEDIUM}


def posed(name, direction):
    case = CASES[name]
    operands = case.arrays(direction, seed=5)
    ours = tuple(case.as_product(direction, operands))
    return case.products()[direction], ours, jax.jit(case.stock(direction))(*operands)


@pytest.mark.parametrize("name", ["small_odd_channels", "small_f16", "small_f32", "small_transposed"])
@pytest.mark.parametrize("direction", "fdw")
def test_the_gate_opens_for_the_exact_result_rounded(name, direction):
    product, operands, baseline = posed(name, direction)
    verdict = judge(product, operands, reference(product, *operands).astype(baseline.dtype), baseline)
    assert verdict.right
    assert verdict.error <= verdict.bound


def moved(y):
    return jnp.roll(y, 1, -1)


def holed(y):
    return y.at[0, 0, 0, 0].set(jnp.nan)


def one_wrong(y):
    return y.at[1, 2, 3, 4].add(jnp.max(jnp.abs(y)) / 4)


@pytest.mark.parametrize("fault", [moved, holed, one_wrong, jnp.zeros_like])
def test_the_gate_closes_for_a_wrong_result(fault):
    product, operands, baseline = posed("small_3x3", "f")
    assert not judge(product, operands, fault(baseline), baseline).right


def test_a_wrong_shape_is_no_result():
    product, operands, baseline = posed("small_3x3", "f")
    with pytest.raises(ValueError, match="shape"):
        judge(product, operands, baseline[:1], baseline)


PIXELS = [
    "small_3x3",
    "small_stride_2",
    "small_crop",
    "small_1d_causal",
    "small_3d",
    "small_transposed",
    "small_grouped",
]


@pytest.mark.parametrize("name", [*PIXELS, "small_dilated", "small_no_bias"])
@pytest.mark.parametrize("direction", "fd")
def test_float64_at_some_pixels_is_that_of_all(name, direction):
    product, operands, baseline = posed(name, direction)
    at = some_places(product, seed=1, count=40)
    whole = reference(product, *operands)
    np.testing.assert_allclose(
        reference_at(product, at, *operands), whole[at[:, 0], :, *at[:, 1:].T], rtol=1e-12, atol=1e-12
    )
    assert (at[0] == 0).all()
    assert (at[-1] == np.delete(baseline.shape, 1) - 1).all()


def test_float64_at_a_pixel_that_a_tap_does_not_reach_is_that_of_the_others():
    """Each of the taps reads nothing for all pixels but one."""
    product, operands, baseline = posed("small_no_bias", "d")
    whole = reference(product, *operands)
    for at in (np.zeros((1, baseline.ndim - 1), int), np.array([np.delete(baseline.shape, 1) - 1])):
        np.testing.assert_allclose(
            reference_at(product, at, *operands), whole[at[:, 0], :, *at[:, 1:].T], rtol=1e-12, atol=1e-12
        )


def test_float64_at_some_pixels_adds_bias_and_residual_before_the_activation():
    rng = np.random.default_rng(0)
    product = dataclasses.replace(CASES["small_dilated"].products()["f"], residual=True)
    operands = [rng.standard_normal(shape).astype(np.float32) for shape in product.operand_shapes]
    whole = reference(product, *operands)
    at = some_places(product, seed=1, count=20)
    np.testing.assert_allclose(
        reference_at(product, at, *operands), whole[at[:, 0], :, *at[:, 1:].T], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", ["small_3x3", "small_f16", "small_f32"])
def test_some_pixels_are_held_to_the_bound_of_all(name):
    product, operands, baseline = posed(name, "d")
    at = some_places(product, seed=1, count=40)
    exact = reference(product, *operands).astype(baseline.dtype)
    assert judge_at(product, at, operands, exact, baseline).right
    for fault in (1.03 * exact.astype(np.float32), exact + np.where(np.arange(exact.shape[-1]) == 0, 0.1, 0)):
        assert not judge_at(product, at, operands, fault, baseline).right


def test_float32_may_be_multiplied_as_tf32_with_rounded_weights_but_no_worse():
    product, (x, w, b), baseline = posed("medium_f32", "f")
    as_baseline = lambda *operands: reference(product, *operands, b).astype(baseline.dtype)
    judged = lambda got: judge(product, (x, w, b), got, np.asarray(baseline))
    assert judged(baseline).bound > 100 * judged(baseline).error  # XLA's CPU does not round
    assert judged(as_baseline(truncated_to_tf32(x), rounded_to_tf32(w))).right
    assert not judged(as_baseline(truncated_to_tf32(x), truncated_to_tf32(w))).right


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_agreement_at_full_size_is_coarse_but_no_more(dtype):
    y = jax.random.normal(jax.random.key(0), (4, 32)).astype(dtype)
    assert agree(y, y, dtype) == (True, 0.0)
    assert not agree(y.at[0, 0].add(0.1), y, dtype)[0]
    assert not agree(y.at[0, 0].set(jnp.nan), y, dtype)[0]


def test_problems_have_names_of_their_own_and_awkward_sizes():
    assert len(CASES) == len(SMALL) + len(MEDIUM)
    assert {c.ndim for c in SMALL} == {1, 2, 3}
    assert {c.dtype for c in SMALL} == {"bfloat16", "float16", "float32"}
    assert all(min(c.out_spatial) > 0 for c in CASES.values())

"""The correctness gate opens for rounding and closes for anything else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.correctness import MEDIUM, SMALL
from pallas_conv.verify.reference import reference
from pallas_conv.verify.verdict import agree, judge

CASES = {c.name: c for c in SMALL + MEDIUM}


def posed(name, direction):
    case = CASES[name]
    operands = case.arrays(direction, seed=5)
    return case.products()[direction], operands, jax.jit(case.stock(direction))(*operands)


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


def test_tf32_is_allowed_its_rounding_where_float32_may_be_rounded():
    product, operands, baseline = posed("small_f32", "f")
    verdict = judge(product, operands, baseline, np.asarray(baseline))
    assert verdict.baseline_error > 10 * verdict.error  # XLA's CPU does not round; the bound does


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

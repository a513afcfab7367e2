"""One product checked: its operands, and what is found in a wrong result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.verify import check
from pallas_conv.verify.verdict import some_places
from tests.kernels.cases import baseline, product

PRODUCT = product("fprop", 4, (32, 16), (30, 31), 3, 1, 1, bias=True, activation="silu", outputs=("y", "z"))


@pytest.fixture(scope="module")
def operands():
    return check.drawing(PRODUCT)(7)


def test_operands_are_normal_and_scaled_so_that_sums_are_of_order_one(operands):
    assert [(a.shape, a.dtype) for a in operands] == [(shape, "bfloat16") for shape in PRODUCT.operand_shapes]
    x, w, _ = (np.asarray(a, np.float64) for a in operands)
    assert abs(x.mean()) < 0.02
    assert x.std() == pytest.approx(1, rel=0.02)
    assert 0.8 < np.std(baseline(PRODUCT, *operands)[1].astype(jnp.float32)) < 2
    assert w.std() * np.sqrt(32 * 9) == pytest.approx(1, rel=0.1)


def test_a_seed_draws_the_same_and_another_one_others(operands):
    again, other = check.drawing(PRODUCT)(7), check.drawing(PRODUCT)(8)
    for a, b, c in zip(operands, again, other, strict=True):
        assert (a == b).all()
        assert (a == c).mean() < 0.1


def test_an_operand_goes_around_the_block():
    found = check._cut(jnp.arange(float(check.BLOCK)), jnp.uint32(check.BLOCK - 2), (3, 4))
    assert found.ravel()[:4].tolist() == [check.BLOCK - 2, check.BLOCK - 1, 0, 1]


def test_what_is_right_is_held_right(operands):
    found = check.hold(PRODUCT, operands, baseline(PRODUCT, *operands), baseline(PRODUCT, *operands), seed=0)
    assert found.right
    assert len(found.verdicts) == len(found.agreements) == 2
    assert check.hold_small(PRODUCT, operands, *[baseline(PRODUCT, *operands)] * 2).right


@pytest.mark.parametrize("output", [0, 1])
def test_one_wrong_pixel_is_found_though_float64_does_not_judge_it(operands, output):
    right = baseline(PRODUCT, *operands)
    judged = {tuple(at) for at in some_places(PRODUCT, 0).tolist()}
    image, *pixel = next(at for at in np.ndindex(4, 30, 31) if at not in judged)
    wrong = list(right)
    wrong[output] = right[output].at[image, :, *pixel].set(0)
    found = check.hold(PRODUCT, operands, wrong, right, seed=0)
    assert all(v.right for v in found.verdicts)
    assert not found.right


def test_float64_finds_what_two_programs_agree_on(operands):
    both = [-result for result in baseline(PRODUCT, *operands)]
    wrong = [result.at[0, 0].add(jnp.bfloat16(0.1)) for result in both]
    found = check.hold(PRODUCT, operands, wrong, both, seed=0)
    assert found.worst.error > 1


def test_a_nan_agrees_with_nothing(operands):
    right = baseline(PRODUCT, *operands)
    nan = [result.at[-1, -1, 5, 5].set(jnp.nan) for result in right]
    assert not check.hold(PRODUCT, operands, nan, right, seed=0).right


def test_a_device_that_is_there_answers():
    assert check.lost() is None


def test_poison_is_no_number_whatever_reads_it():
    poison = check.nans(10)
    assert poison.nbytes == 12
    for dtype in ("float32", "float16", "bfloat16"):
        assert np.isnan(np.asarray(poison).view(jnp.dtype(dtype))).all()


def test_poison_is_let_go_of():
    before = len(jax.live_arrays())
    check.poisoning(64, 64, 128)()
    assert len(jax.live_arrays()) <= before

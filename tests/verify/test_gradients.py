"""Gradients of weights and of biases, and whole backward passes: their oracle, and what is found in a wrong one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.activations import ACTIVATIONS
from pallas_conv.dispatch.plan import plans
from pallas_conv.doctor.plan import NO_KERNELS, lax_program
from pallas_conv.equation import Equation, operands_of
from pallas_conv.kernels import families
from pallas_conv.lowering.execution import execute
from pallas_conv.target import resolve
from pallas_conv.verify import check, reference
from pallas_conv.verify.verdict import judge, judge_at, some_places
from tests.kernels import together
from tests.kernels.cases import baseline, product

SIZES = (4, (16, 24), (9, 8), (3, 2), (2, 1), 1)
PRODUCTS = {
    "dw": product("wgrad", *SIZES),
    "dw of float32": product("wgrad", *SIZES, dtype="float32"),
    "dw of groups and models": product("wgrad", *SIZES, groups=4, models=3),
    "dw of a transposed one": product("wgrad", *SIZES, 2, input_dilation=(1, 3)),
    "dw and db": product("wgrad", *SIZES, activation="relu", outputs=("dw", "db"), out_dtype="float32"),
    "all": product("bwd", *SIZES, groups=2, activation="silu", outputs=("dx", "dw", "db"), dtype="float16"),
    "all of models": product("bwd", *SIZES, models=2, outputs=("dx", "dw"), dtype="float32"),
}
EACH = pytest.mark.parametrize("it", PRODUCTS.values(), ids=PRODUCTS)
FULL = product("wgrad", 16, (32, 16), (40, 40), 3, 1, 1, outputs=("dw", "db"))


@pytest.fixture(autouse=True)
def families_of_gradients(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", (*families.FAMILIES, together.TOGETHER, together.WEIGHTS))


def usual(it, *operands):
    """Results of what runs on a CPU without kernels."""
    return execute(Equation.of(it, ("auto",), NO_KERNELS), resolve("cpu"), *operands)


def each_output(it):
    return [dataclasses.replace(it, outputs=(name,)) for name in it.outputs]


@EACH
def test_xlas_own_results_are_right_everywhere_and_at_some_places(it):
    operands = check.drawing(it)(3)
    right = usual(it, *operands)
    assert [y.dtype for y in right] == list(it.result_dtypes)
    assert check.hold_small(it, operands, right, right).right
    assert check.hold(it, operands, right, right, seed=1).right
    for one, got, other in zip(each_output(it), right, baseline(it, *operands), strict=True):
        assert judge(one, operands, got, other).right


@EACH
def test_float64_at_some_places_is_that_of_all(it):
    operands = [np.asarray(a) for a in check.drawing(it)(3)]
    for one in each_output(it):
        at, whole = some_places(one, seed=2), reference.reference(one, *operands)
        image = one.outputs == ("dx",)
        index = [*at.T[: at.shape[1] - 2], slice(None), *at.T[-2:]] if image else at.T
        want = whole[tuple(index)]
        np.testing.assert_allclose(reference.reference_at(one, at, *operands), want, rtol=1e-12, atol=1e-12)


@EACH
def test_sums_are_of_order_one(it):
    for of_output in usual(it, *check.drawing(it)(3)):
        assert 0.2 < np.std(np.asarray(of_output, np.float64)) < 3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_are_those_of_the_activations(activation):
    """The derivative of y is a function of what is saved: of y itself, or of z."""
    z = np.linspace(-3, 3, 41)
    saved = z if ACTIVATIONS[activation].saved == "z" else reference.ACTIVATIONS[activation](z)
    step = 1e-6
    slope = np.diff([reference.ACTIVATIONS[activation](z + side) for side in (-step, step)], axis=0)[0] / (2 * step)
    there = np.abs(z) > step
    np.testing.assert_allclose(reference.DERIVATIVES[activation](saved)[there], slope[there], rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def full():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "FAMILIES", (*families.FAMILIES, together.WEIGHTS))
        operands = check.drawing(FULL)(5)
    return operands, usual(FULL, *operands)


FAULTS = {
    "an image": lambda x, ct: (x, ct.at[3].set(0)),
    "a row of every image": lambda x, ct: (x, ct.at[:, :, 20].set(0)),
    "the other image": lambda x, ct: (jnp.roll(x, 1, 0), ct),
    "the pixel beside": lambda x, ct: (jnp.roll(x, 1, -1), ct),
    "the channel beside": lambda x, ct: (jnp.roll(x, 1, 1), jnp.roll(ct, 1, 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_wrong_kernel_leaves_out_or_reads_is_found_at_some_places(full, fault):
    operands, right = full
    wrong = usual(FULL, *FAULTS[fault](*operands))
    one = each_output(FULL)[0]
    assert not judge_at(one, some_places(one, seed=0), operands, wrong[0], right[0]).right


def test_one_wrong_element_is_found_wherever_it_is(full):
    operands, right = full
    for output, element in ((0, (3, 5, 1, 2)), (1, (7,))):
        wrong = list(right)
        wrong[output] = right[output].at[element].add(0.5)
        assert not check.hold(FULL, operands, wrong, right, seed=0).right


def test_places_are_fewer_where_an_element_is_a_long_sum():
    large = product("wgrad", 256, (64, 64), (56, 56), 3, 1, 1)
    at = some_places(large, seed=0)
    assert 8 <= len(at) <= 24
    assert (at[0] == 0).all()
    assert at[-1].tolist() == [63, 63, 2, 2]
    assert len(some_places(FULL, seed=0)) == 64


def test_tf32_may_truncate_both_operands_but_not_a_gradient_of_biases():
    it = product("wgrad", 2, (8, 8), (9, 8), 3, 1, 1, dtype="float32", outputs=("dw", "db"))
    x, ct = (jnp.abs(a).astype("float32") + 0.1 for a in check.drawing(it)(1))
    right = usual(it, x, ct)
    read = [jnp.asarray(reference.truncated_to_tf32(a)) for a in (x, ct)]
    weights, biases = (
        judge(one, (x, ct), reference.reference(one, *read).astype("float32"), other)
        for one, other in zip(each_output(it), right, strict=True)
    )
    assert weights.right
    assert weights.error > 100 * weights.baseline_error
    assert not biases.right


@EACH
def test_a_product_is_an_equation_and_back(it):
    equation = Equation.of(it, ("xla",))
    assert it in (*equation.wholes(operands_of(it)), *equation.products(it.operand_shapes))


@EACH
def test_what_runs_without_a_kernel_has_one_name(it):
    h100 = resolve("h100")
    parts = plans(Equation.of(it, ("auto",), NO_KERNELS), h100, operands_of(it))
    assert lax_program(it, h100) == "+".join(part.formulation for part in parts)
    assert len(parts) == (2 if it.role == "bwd" else 1)


def test_a_kernels_result_is_held_against_it_in_float64(full):
    """In JAX's own arithmetic: what an example kernel computes agrees with the oracle that shares no code with it."""
    operands, right = full
    got = together.run(FULL, None, None, *operands, name="")
    assert check.hold_small(FULL, operands, got, right).right
    assert jax.tree.map(jnp.shape, got) == list(FULL.result_shapes)

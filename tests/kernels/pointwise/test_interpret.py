"""The pointwise kernel in Mosaic's interpreter, with race detection, against float64.

What is multiplied and loaded is counted on the way, and held against the plan and against the definition.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.pointwise import POINTWISE, served, work
from pallas_conv.kernels.pointwise.plan import Config, Problem
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.pointwise.proving import generated
from tests.kernels.proving import prove, run
from workloads import paths
from workloads.ladder import pointwise as ladder
from workloads.ladder.pointwise import ALL, bwd
from workloads.ladder.rung import covering

pytestmark = pytest.mark.usefixtures("dropped_axes")

OFTEN = covering(ladder.LADDER, ladder.features)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.extended] * (case not in OFTEN)) for case in ladder.CASES], ids=str
)
def test_right_and_executed_as_planned(case, count):
    prove_as_planned(case, count)


@pytest.mark.extended
@pytest.mark.parametrize("case", paths.cases_of(POINTWISE), ids=str)
def test_what_is_chosen_for_wanted_products(case, count):
    prove_as_planned(case, count)


def prove_as_planned(case, count):
    """Both at once, since interpretation takes seconds."""
    assert served.reasons(case.product) == ()
    prove(case)
    problem, cfg = Problem.of(case.product), case.config
    assert 2 * cases.useful(case.product) <= count["macs"] == work.executed_macs(problem, cfg)
    assert count["bytes"] == work.loaded_bytes(problem, cfg)


@pytest.mark.parametrize(
    ("channels", "tile_n"), [((64, 64), 64), pytest.param((128, 128), 128, marks=pytest.mark.extended)]
)
def test_where_blocks_divide_nothing_is_multiplied_in_vain(channels, tile_n, count):
    """Whole boxes, whole blocks: exactly the multiply-adds of the definition, those of both gradients."""
    case = Case("whole", bwd(2, channels, (8, 16)), Config((1, 8, 16), tile_n), num_sms=1)
    run(case, case.operands())
    assert count["macs"] == 2 * cases.useful(case.product)


SMALL = bwd(3, (24, 72), (7, 9), outputs=ALL, activation="silu")


def test_two_runs_are_bitwise_equal():
    case = Case("twice", SMALL, Config((2, 8, 8), split_k=2), num_sms=2)
    operands = case.operands()
    for first, second in zip(run(case, operands), run(case, operands), strict=True):
        assert np.asarray(first).tobytes() == np.asarray(second).tobytes()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize("spoilt", ["a", *(pytest.param(name, marks=pytest.mark.extended) for name in ("x", "ct"))])
def test_what_is_not_finite_reaches_the_gradients_of_the_definition_alone(spoilt):
    """A box ends beyond the image: there zeros meet zeros."""
    product = dataclasses.replace(SMALL, activation="tanh")
    case = Case("not finite", product, Config((2, 8, 8), split_k=2), num_sms=2)
    operands = dict(zip(product.operands, case.operands(), strict=True))
    operands[spoilt] = jnp.asarray(np.asarray(operands[spoilt])).at[1, 5, 3, 4].set(jnp.nan)
    got, want = run(case, [*operands.values()]), cases.baseline(product, *operands.values())
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(*(np.isfinite(np.asarray(t).astype(np.float32)) for t in (a, b)))
    assert not all(np.isfinite(np.asarray(t).astype(np.float32)).all() for t in want)


def test_the_chosen_configuration_runs():
    prove(Case("chosen pointwise", SMALL, serve.choose(SMALL, Gpu(4))))


def test_plain_launch_needs_no_context_and_jits():
    case = Case("jitted pointwise", bwd(1, (24, 16), (3, 9)), Config((1, 8, 16)), num_sms=2)
    operands = case.operands()
    run_jitted = jax.jit(functools.partial(case.kernel.run, interpret=True))
    cases.check(case.product, run_jitted(*operands), operands)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.extended) for n in range(1, 60))])
def test_generated(seed):
    prove(generated(seed))

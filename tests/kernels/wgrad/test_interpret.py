"""The weight-gradient kernel in Mosaic's interpreter, with race detection, against float64.

What is multiplied and loaded is counted on the way, and held against the plan and against the definition.
"""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.wgrad import WEIGHT_GRADIENT, served, work
from pallas_conv.kernels.wgrad.plan import Config, Problem
from pallas_conv.verify.reference import reference
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.proving import prove, run
from tests.kernels.wgrad.proving import generated, in_seconds
from workloads import paths
from workloads.ladder import wgrad as ladder
from workloads.ladder.rung import covering

pytestmark = pytest.mark.usefixtures("dropped_axes")


# Few cases of all features here: the emulator, which is closer to the GPU, executes one a rung.
OFTEN = covering(ladder.LADDER, ladder.features)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.extended] * (case not in OFTEN)) for case in ladder.CASES], ids=str
)
def test_right_and_executed_as_planned(case, count):
    prove_as_planned(case, count)


@pytest.mark.extended
@pytest.mark.timeout(280)
@pytest.mark.parametrize("case", list(filter(in_seconds, paths.cases_of(WEIGHT_GRADIENT))), ids=str)
def test_what_is_chosen_for_wanted_products(case, count):
    prove_as_planned(case, count)


def prove_as_planned(case: Case, count: collections.Counter) -> None:
    """Both at once, since interpretation takes seconds."""
    assert served.reasons(case.product) == ()
    prove(case)
    problem, cfg = Problem.of(case.product), case.config
    assert cases.useful(case.product) <= count["macs"] == work.executed_macs(problem, cfg)
    assert count["bytes"] == work.loaded_bytes(problem, cfg)


p = functools.partial(cases.product, "wgrad")
WHOLE = {
    "3x3": (p(2, (64, 64), (10, 18), 3), False),
    "transposed 2x2 s2": (p(2, (64, 64), (8, 16), 2, 1, 1, input_dilation=2), True),
    "3x3 s2": (p(1, (64, 64), (17, 33), 3, 2), False),
    "3-D 3x1x2": (p(1, (64, 64), (4, 8, 9), (3, 1, 2)), False),
    "1-D, dilation 4": (p(2, (64, 64), (72,), 3, 1, 0, 4), False),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (i > 1)) for i, n in enumerate(WHOLE)])
def test_where_boxes_divide_nothing_is_multiplied_in_vain(name, count):
    """No padding, whole boxes: exactly the multiply-adds of the definition, whatever the strides on either side."""
    product, transposed = WHOLE[name]
    box = {1: (1, 64), 2: (1, 4, 16), 3: (1, 1, 8, 8)}[product.spec.ndim]
    case = Case(f"whole {name}", product, Config(box, stages=2, transposed=transposed))
    run(case, case.operands())
    assert count["macs"] == cases.useful(product)


ONE_PIXEL = p(1, (8, 8), (1,), 2, 1, ((1, 0),))
DROPPED = {
    "one pixel": (ONE_PIXEL, Config((64, 1), taps_per_tile=2, stages=2)),
    "one row": (p(1, (8, 8), (1, 64), (2, 1), 1, ((1, 0), 0)), Config((1, 1, 64), taps_per_tile=2, stages=2)),
    "one column": (p(1, (8, 8), (14, 1), 3, 1, 1), Config((1, 64, 1), taps_per_tile=2, stages=2)),
    "two pixels, s2": (p(1, (8, 8), (2,), 3, 2, ((1, 0),)), Config((64, 1), taps_per_tile=3, stages=2)),
    "a volume of one row": (
        p(1, (8, 8), (1, 2, 9), (2, 1, 2), 1, ((1, 0), 0, 1)),
        Config((1, 1, 4, 16), taps_per_tile=4, stages=2),
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.extended] * (i > 0)) for i, n in enumerate(DROPPED)]
)
def test_a_tap_beside_the_only_pixel_reads_zero(name):
    """Mosaic drops an axis of one pixel, index and all: there another tap of the tile reads the pixel itself."""
    prove(Case(f"dropped {name}", *DROPPED[name]))


def test_two_runs_are_bitwise_equal():
    case = next(case for case in ladder.CASES if case.name == "dw, eight images a step, padding, parts")
    small = dataclasses.replace(case, product=dataclasses.replace(case.product, batch=9, in_channels=8, out_channels=8))
    operands = small.operands()
    (first,), (second,) = run(small, operands), run(small, operands)
    assert np.asarray(first).tobytes() == np.asarray(second).tobytes()


SMALL = p(2, (16, 24), (7, 9), 3, 1, 1)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's NumPy
def test_what_is_not_finite_makes_no_gradient_finite():
    """More taps than the definition says may become NaN, where a box ends beyond dy; none of the others changes."""
    case = Case("not finite", SMALL, Config((1, 8, 8), taps_per_tile=3, stages=2))
    x, dy = case.operands()
    spoilt = jnp.asarray(np.asarray(x)).at[1, 5, 3, 4].set(jnp.inf)
    (got,), (want,) = run(case, [spoilt, dy]), cases.baseline(case.product, spoilt, dy)
    got, want = (np.isfinite(np.asarray(a).astype(np.float32)) for a in (got, want))
    assert not want.all()
    assert not (got & ~want).any()
    others = np.arange(16) != 5
    assert got[:, others].all()


def test_float32_is_closer_than_tf32():
    """Three products of bfloat16 lose less than a tenth of what operands of ten bits of mantissa would."""
    case = Case(
        "precise", dataclasses.replace(SMALL, compute_dtype="float32", out_dtype="float32"), Config((1, 8, 8), stages=2)
    )
    operands = case.operands()
    (got,) = run(case, operands)
    want = reference(case.product, *operands)
    assert np.abs(got - want).max() < 2e-5 * np.abs(want).max()


def test_the_chosen_configuration_runs():
    prove(Case("chosen weight gradient", SMALL, serve.choose(SMALL, Gpu(4))))


def test_plain_launch_needs_no_context_and_jits():
    case = Case("jitted weight gradient", ONE_PIXEL, Config((64, 1), stages=2), num_sms=2)
    operands = case.operands()
    run_jitted = jax.jit(functools.partial(case.kernel.run, interpret=True))
    cases.check(case.product, run_jitted(*operands), operands)


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(n, marks=pytest.mark.extended) for n in range(2, 60))])
def test_generated(seed):
    prove(generated(seed))

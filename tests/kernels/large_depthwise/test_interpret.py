"""The large-kernel depthwise kernel in Mosaic's interpreter, with race detection, against float64.

What is multiplied and loaded is counted on the way, and held against the plan.
"""

import collections
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.activations import ACTIVATIONS
from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.large_depthwise import LARGE_DEPTHWISE, hankel, served, work
from pallas_conv.kernels.large_depthwise.plan import BLOCK, CONSUMERS, ROWS, STEP, WARPS, Config, Problem, tiling
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.large_depthwise.proving import generated, large
from tests.kernels.proving import prove, run
from workloads import paths
from workloads.ladder import large_depthwise as ladder
from workloads.ladder.rung import covering

pytestmark = pytest.mark.usefixtures("dropped_axes")


@pytest.fixture
def counted(count, monkeypatch) -> collections.Counter:
    """`count`, with the multiply-adds of rows."""
    one_at_a_time, multiply_row = threading.Lock(), hankel.multiply_row

    def now(macs):
        with one_at_a_time:  # the interpreter calls from several threads
            count["macs"] += macs

    def counting(sums, pixels, rows, blocks, steps, **how):
        macs = WARPS * ROWS * len(rows) * blocks * BLOCK * steps * STEP
        jax.debug.callback(functools.partial(now, macs))
        return multiply_row(sums, pixels, rows, blocks, steps, **how)

    monkeypatch.setattr(hankel, "multiply_row", counting)
    return count


def prove_as_planned(case: Case, counted: collections.Counter) -> None:
    """Both at once, since interpretation takes seconds."""
    assert served.reasons(case.product) == ()
    prove(case)
    problem, cfg = Problem.of(case.product), case.config
    t = tiling(problem, cfg)
    assert cases.useful(case.product) <= counted["macs"] == work.executed_macs(problem, cfg)
    kept = 0 if problem.weight_sums else t.workers(case.num_sms) * 2 * np.prod(t.right_shape)  # weights, once each
    assert counted["bytes"] == work.loaded_bytes(problem, cfg) + kept


OFTEN = covering(ladder.LADDER, ladder.features)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.extended] * (case not in OFTEN)) for case in ladder.CASES], ids=str
)
def test_right_and_executed_as_planned(case, counted):
    prove_as_planned(case, counted)


@pytest.mark.extended
@pytest.mark.timeout(280)
@pytest.mark.parametrize("case", paths.cases_of(LARGE_DEPTHWISE), ids=str)
def test_what_is_chosen_for_wanted_products(case, counted):
    prove_as_planned(case, counted)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.extended] * (n != 1)) for n in range(60)])
def test_generated(seed, counted):
    prove_as_planned(generated(seed), counted)


@pytest.mark.parametrize(
    "activation", [a if a == "gelu_tanh" else pytest.param(a, marks=pytest.mark.extended) for a in ACTIVATIONS]
)
def test_activation(activation):
    product = large("fprop", 1, 8, (10, 12), 10, 1, 1, bias=True, activation=activation, outputs=("y", "z"))
    prove(Case(f"large depthwise activation {activation}", product, Config(32, 8, 2), num_sms=1))


def test_the_chosen_configuration_runs():
    product = large("fprop", 2, 12, (9, 20), 11, 1, 5, bias=True, activation="relu")
    prove(Case("chosen large depthwise", product, serve.choose(product, Gpu(4))))


@pytest.mark.parametrize("rows", [24, 16], ids=["moving", "resident"])
def test_pixels_that_are_not_finite(rows):
    """NaN and infinity stay in their channels, and no further than fifteen columns and seven rows beyond the windows.

    Where sums of all rows stay in registers, they may be in all rows.
    """
    product = large("fprop", 1, 12, (24, 50), (11, 12), 1, (5, 6))
    case = Case("large depthwise of what is not finite", product, Config(32, rows, 2), num_sms=2)
    pixels, w = case.operands()
    x = np.asarray(pixels).copy()
    x[0, 9, 12, 30], x[0, 3, 2, 3] = np.nan, np.inf
    (got,) = (np.isfinite(np.asarray(a, np.float32)) for a in run(case, [jnp.asarray(x), w]))
    (want,) = (np.isfinite(np.asarray(a, np.float32)) for a in cases.baseline(product, jnp.asarray(x), w))
    assert not got[~want].any()
    assert set((~got).any((0, 2, 3)).nonzero()[0]) == {3, 9}
    down, across = (~want[0, 9]).nonzero()
    near = np.zeros_like(want[0, 9])
    further = slice(down.min() - 7, down.max() + 8) if rows == 24 else slice(None)
    near[further, across.min() - 15 : across.max() + 16] = True
    assert got[0, 9][~near].all()


def test_a_weight_gradient_of_pixels_that_are_not_finite():
    """NaN and infinity stay in their channels."""
    product = large("wgrad", 1, 12, (20, 32), (10, 11), 1, (4, 5), outputs=("dw", "db"))
    case = Case("large depthwise dw of what is not finite", product, Config(32, 16, 2), num_sms=2)
    x, ct = (np.asarray(a).copy() for a in case.operands())
    x[0, 9, 0, 0], ct[0, 3, 10, 15] = np.nan, np.inf
    operands = [jnp.asarray(x), jnp.asarray(ct)]
    finite = lambda found: [np.isfinite(np.asarray(a, np.float32)) for a in found]
    (dw, db), (usual, usual_db) = finite(run(case, operands)), finite(cases.baseline(product, *operands))
    assert not dw[~usual].any()
    assert (~dw).any((1, 2, 3)).nonzero()[0].tolist() == [3, 9]
    np.testing.assert_array_equal(db, usual_db)


def test_both_consumers_have_channels_of_their_own():
    """An infinite weight stays in its channel."""
    product = large("fprop", 1, 8, (12, 20), (10, 11))
    case = Case("infinite weight", product, Config(32, 8, 2), num_sms=1)
    pixels, w = case.operands()
    for channel in (0, WARPS * CONSUMERS - 1):
        (got,) = run(case, [pixels, w.at[channel, 0, 4, 5].set(jnp.inf)])
        finite = np.isfinite(np.asarray(got, np.float32)).all((0, 2, 3))
        assert (~finite).nonzero()[0].tolist() == [channel]

"""The depthwise kernel in Mosaic's interpreter, with race detection, against float64.

What is multiplied and loaded is counted on the way, and held against the plan and against the definition.
"""

import collections
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.activations import ACTIVATIONS
from pallas_conv.kernels import serve
from pallas_conv.kernels.depthwise import DEPTHWISE, fragments, served, work
from pallas_conv.kernels.depthwise.plan import Config, Problem
from pallas_conv.kernels.gpu import Gpu
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.depthwise.proving import depthwise, generated
from tests.kernels.proving import prove, run
from workloads import paths
from workloads.ladder import depthwise as ladder
from workloads.ladder.rung import covering

pytestmark = pytest.mark.usefixtures("dropped_axes")


@pytest.fixture
def counted(counted_products):
    return counted_products


def prove_as_planned(case: Case, counted: collections.Counter) -> None:
    """Both at once, since interpretation takes seconds."""
    assert served.reasons(case.product) == ()
    prove(case)
    problem, cfg = Problem.of(case.product), case.config
    assert cases.useful(case.product) <= counted["macs"] * problem.group == work.executed_macs(problem, cfg)
    assert counted["bytes"] == work.loaded_bytes(problem, cfg)


# Few cases of most features here: the emulator, which is closer to the GPU, executes one a rung.
BY_NAME = {case.name: case for case in ladder.CASES}
SLOW = {
    BY_NAME["depthwise dw, float32, transposed k4 s2, two models, bias"],
    BY_NAME["depthwise dx, 3-D, 3x2x3 s2x1x2, tiles of two planes"],
    BY_NAME["depthwise, nine taps of a row"],
}
OFTEN = covering(ladder.LADDER, ladder.features) - SLOW | {
    BY_NAME["depthwise dw, 5x4 s2x3, rows in vain, asymmetric padding, bias"],
    BY_NAME["depthwise dw, 3-D, 3x3x3, tiles of two planes, bias"],
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.extended] * (case not in OFTEN)) for case in ladder.CASES], ids=str
)
def test_right_and_executed_as_planned(case, counted):
    prove_as_planned(case, counted)


@pytest.mark.extended
@pytest.mark.timeout(280)
@pytest.mark.parametrize("case", paths.cases_of(DEPTHWISE), ids=str)
def test_what_is_chosen_for_wanted_products(case, counted):
    prove_as_planned(case, counted)


SEEDS = (6, 14)  # a weight gradient in float16, and one of groups that zeros fill up, of several models


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.extended] * (n not in SEEDS)) for n in range(60)])
def test_generated(seed, counted):
    prove_as_planned(generated(seed), counted)


WHOLE = {
    "3x3": (depthwise("fprop", 2, 32, (10, 34), 3), Config((1, 4, 32), 2, 2)),
    "dx of 2x2 s2": (depthwise("dgrad", 2, 32, (8, 64), 2, 2), Config((1, 2, 16), 2, 2)),
    "1-D, dilation 4": (depthwise("fprop", 2, 64, (72,), 3, 1, 0, 4), Config((1, 1, 32), channel_warpgroups=2)),
    "3-D 3x1x2": (depthwise("fprop", 1, 32, (4, 2, 33), (3, 1, 2)), Config((2, 2, 16))),
    "dw of 3x3 s2": (depthwise("wgrad", 2, 32, (9, 65), 3, 2), Config((1, 2, 32), 2, 2)),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (i > 1)) for i, n in enumerate(WHOLE)])
def test_where_tiles_divide_nothing_is_multiplied_in_vain(name, counted):
    """No padding, whole tiles: exactly the multiply-adds of the definition, whatever the strides."""
    product, cfg = WHOLE[name]
    case = Case(f"whole depthwise {name}", product, cfg)
    run(case, case.operands())
    assert counted["macs"] == cases.useful(product)


@pytest.mark.parametrize(
    "activation", [a if a == "gelu_tanh" else pytest.param(a, marks=pytest.mark.extended) for a in ACTIVATIONS]
)
def test_activation(activation):
    product = depthwise("fprop", 1, 32, (1, 16), 1, bias=True, activation=activation, outputs=("y", "z"))
    prove(Case(f"depthwise activation {activation}", product, Config((1, 1, 16), stages=2), num_sms=1))


def test_the_chosen_configuration_runs():
    product = depthwise("fprop", 2, 40, (9, 20), 3, 1, 1, bias=True, activation="relu")
    prove(Case("chosen depthwise", product, serve.choose(product, Gpu(4))))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pixels_that_are_not_finite(dtype):
    """NaN and infinity stay in the windows that see them. In 16 bits, all channels of a warp have NaN there."""
    product = depthwise("fprop", 1, 40, (6, 19), 3, 1, 1, dtype=dtype)
    case = Case(f"not finite {dtype}", product, Config((1, 2, 16), 2, 3, channel_warpgroups=2), num_sms=2)
    pixels, w = case.operands()
    flat = np.asarray(pixels).copy()
    flat[0, 9, 2, 3], flat[0, 33, 4, 10] = np.nan, np.inf
    (got,) = (np.asarray(a).astype(np.float32) for a in run(case, [jnp.asarray(flat), w]))
    (want,) = (np.asarray(a).astype(np.float32) for a in cases.baseline(product, jnp.asarray(flat), w))
    lanes = 1 if dtype == "float32" else fragments.LANES
    reached = ~np.isfinite(want).reshape(1, -1, lanes, *want.shape[2:]).all(2)
    assert reached.sum() == 2 * 9
    np.testing.assert_array_equal(~np.isfinite(got), np.repeat(reached, lanes, 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_gradient_of_pixels_that_are_not_finite(dtype):
    """NaN and infinity stay in their channels, and in their taps where no tile ends beyond the cotangent."""
    product = depthwise("wgrad", 1, 40, (6, 16), 3, 1, 1, dtype=dtype, outputs=("dw", "db"))
    case = Case(f"dw of what is not finite {dtype}", product, Config((1, 2, 16), 2, 3, 2, stages=6), num_sms=2)
    x, ct = (np.asarray(a).copy() for a in case.operands())
    x[0, 9, 0, 0], x[0, 33, 3, 10], ct[0, 17, 5, 15] = np.nan, np.inf, np.inf
    finite = lambda found: [np.isfinite(np.asarray(a).astype(np.float32)) for a in found]
    operands = [jnp.asarray(x), jnp.asarray(ct)]
    for got, want in zip(finite(run(case, operands)), finite(cases.baseline(product, *operands)), strict=True):
        np.testing.assert_array_equal(got, want)
        assert not want.all()
    ragged = Case(
        f"ragged {dtype}", depthwise("wgrad", 1, 8, (1, 5), (1, 3), dtype=dtype), Config((1, 1, 16), stages=3)
    )
    x, ct = (np.asarray(a).copy() for a in ragged.operands())
    x[0, 3, 0, 4] = np.inf  # the last pixel, which only the last tap reads
    (got,) = finite(run(ragged, [jnp.asarray(x), jnp.asarray(ct)]))
    assert (~got).any((1, 2, 3)).tolist() == [c == 3 for c in range(8)]
    assert not got[3, 0, 0, 2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_backward_pass_of_pixels_that_are_not_finite(dtype):
    """NaN and infinity stay in their channels. At a border of x they are in all taps: those beyond multiply it with zeros."""
    product = depthwise("bwd", 1, 40, (6, 16), 3, 1, 1, dtype=dtype, outputs=("dx", "dw", "db"))
    case = Case(f"backward of what is not finite {dtype}", product, Config((1, 2, 16), 2, 3, 2, stages=6), num_sms=2)
    x, ct, w = (np.asarray(a).copy() for a in case.operands())
    x[0, 9, 0, 0], x[0, 33, 3, 10], ct[0, 17, 3, 7] = np.nan, np.inf, np.inf
    operands = [jnp.asarray(a) for a in (x, ct, w)]
    finite = lambda found: [np.isfinite(np.asarray(a).astype(np.float32)) for a in found]
    (dx, dw, db), (_, usual, _) = (finite(found) for found in (run(case, operands), cases.baseline(product, *operands)))
    assert (~dw).any((1, 2, 3)).nonzero()[0].tolist() == [9, 17, 33]
    np.testing.assert_array_equal(np.delete(dw, 9, 0), np.delete(usual, 9, 0))
    assert not dw[9].any()
    assert usual[9].any()  # of taps that never meet the corner
    lanes = [17] if dtype == "float32" else list(range(16, 24))
    assert (~dx).any((0, 2, 3)).nonzero()[0].tolist() == lanes
    assert (~db).nonzero()[0].tolist() == [17]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_infinite_weight_stays_in_its_channel(dtype):
    """Beside the diagonals of the tensor cores' matrices are zeros, whatever the weights."""
    product = depthwise("fprop", 1, 16, (1, 18), (1, 3), dtype=dtype)
    case = Case(f"infinite weight {dtype}", product, Config((1, 1, 16), stages=2), num_sms=1)
    pixels, w = case.operands()
    (got,) = run(case, [pixels, w.at[9, 0, 0, 1].set(jnp.inf)])
    assert (~np.isfinite(np.asarray(got).astype(np.float32))).all((0, 2, 3)).tolist() == [c == 9 for c in range(16)]
    (usual,) = run(case, [pixels, w])
    np.testing.assert_array_equal(np.delete(got, 9, 1), np.delete(usual, 9, 1))


p = functools.partial(depthwise, "fprop")


@pytest.mark.parametrize(
    ("product", "config"),
    [
        (p(1, 8, (1, 5), (3, 1), 1, (1, 0)), Config((1, 1, 16), stages=3)),
        (p(1, 8, (1,), 3, 1, 1), Config((1, 1, 16), stages=2)),
        (p(1, 8, (1, 1, 2), (2, 2, 1), 1, (1, 1, 0)), Config((2, 1, 16), stages=3)),
    ],
    ids=["one row", "one pixel", "one plane"],
)
def test_a_tap_beside_the_only_row_reads_zero(product, config):
    """Mosaic drops an axis of one row, index and all: there the other taps would read the row itself."""
    prove(Case(f"dropped axis {product.spec.ndim}", product, config, num_sms=1))

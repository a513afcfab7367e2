"""The dense kernel in Mosaic's interpreter, with race detection, against float64.

The bound is relative to what XLA's own convolution makes of the same operands, see `cases.check`. What is multiplied and
loaded is counted on the way, and held against the plan and against the definition.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.activations import ACTIVATIONS
from pallas_conv.kernels import serve
from pallas_conv.kernels.dense import DENSE, served, work
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.verify.reference import reference, rounded_to_tf32
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.dense.proving import as_multiplied, generated, prove, run
from workloads import paths
from workloads.ladder import dense as ladder
from workloads.ladder.rung import covering

pytestmark = pytest.mark.usefixtures("dropped_axes")


def prove_as_planned(case, count):
    prove(case)
    problem, cfg = Problem.of(case.product), case.config
    assert cases.useful(case.product) <= count["macs"] == work.executed_macs(problem, cfg)
    assert count["bytes"] == work.loaded_bytes(problem, cfg, case.num_sms)


# Few cases of all features here: the emulator, which is closer to the GPU, executes one a rung, and all of them ran on one.
OFTEN = covering(ladder.LADDER, ladder.features)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.extended] * (case not in OFTEN)) for case in ladder.CASES], ids=str
)
def test_right_and_executed_as_planned(case, count):
    """Both at once, since interpretation takes seconds."""
    assert served.reasons(case.product) == ()
    prove_as_planned(case, count)


SMALLEST = Config((1, 8, 8), 32, tile_k=32, stages=2)
p = cases.product
WHOLE = {
    "3x3": p("fprop", 2, (64, 64), (10, 18), 3),
    "3x3 s2": p("fprop", 2, (64, 64), (17, 33), 3, 2),
    "transposed 2x2 s2": p("fprop", 2, (64, 64), (8, 16), 2, 1, 1, input_dilation=2),
    "transposed 3x1 s3x1": p("fprop", 2, (64, 64), (8, 16), (3, 1), 1, (2, 0), input_dilation=(3, 1)),
    "input gradient of 2x2 s2": p("dgrad", 2, (64, 64), (16, 32), 2, 2),
    "input gradient of 1x1 s2, three phases of four without taps": p("dgrad", 2, (64, 64), (16, 32), 1, 2),
    "3-D 3x1x2": p("fprop", 1, (64, 64), (4, 8, 9), (3, 1, 2)),
    "1-D, dilation 4": p("fprop", 2, (64, 64), (72,), 3, 1, 0, 4),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (i % 2)) for i, n in enumerate(WHOLE)])
def test_where_tiles_divide_nothing_is_multiplied_in_vain(name, count):
    """No padding, whole tiles: exactly the multiply-adds of the definition, whatever the strides on either side."""
    box = {1: (1, 64), 2: (1, 4, 16), 3: (1, 1, 8, 8)}[WHOLE[name].spec.ndim]
    case = Case(f"whole {name}", WHOLE[name], Config(box, 64, stages=2))
    run(case, case.operands())
    assert count["macs"] == cases.useful(case.product)


def test_zeros_for_want_of_a_bias_leave_every_sum_as_it_is():
    """The sums of a product that activates them equal those of one that does not, to the last bit."""
    bare, activated = (
        Case(f"sums {kind}", dataclasses.replace(p("fprop", 1, (32, 32), (8, 8), 3, 1, 1), **kind), SMALLEST)
        for kind in ({}, {"activation": "gelu", "outputs": ("y", "z")})
    )
    operands = bare.operands()
    (wanted,), (_, z) = run(bare, operands), run(activated, operands)
    assert z.tobytes() == wanted.tobytes()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter's NumPy
@pytest.mark.parametrize(
    "name",
    [
        "C=48 K=80, three taps a step",
        pytest.param("padding and dilation 12, taps skipped", marks=pytest.mark.extended),
        pytest.param("halo, four taps a step, cluster of two", marks=pytest.mark.extended),
        "transposed, dilated: phases with other taps, more tiles than blocks, both outputs",
        pytest.param(
            "input gradient of stride 3, 1x1: phases without taps are zero, odd sizes", marks=pytest.mark.extended
        ),
        pytest.param("three groups, s2", marks=pytest.mark.extended),
        pytest.param(
            "strided halo, three taps of two remainders, more tiles than blocks, cluster of two",
            marks=pytest.mark.extended,
        ),
        "stem 7x7 s2, taps as channels, odd width",
        "three output channels 5x5, taps of one dimension as output channels, both outputs",
        pytest.param("3-D, several taps a step past the last image", marks=pytest.mark.extended),
    ],
)
def test_what_is_not_finite_spreads_as_in_xla(name):
    """NaN and infinity stay within the windows that see them: no zero that only the kernel multiplies with meets them."""
    (case,) = (case for case in ladder.CASES if case.name == name)
    pixels, *rest = case.operands()
    flat = np.asarray(pixels).copy()
    at = np.random.default_rng(0).integers(flat.size, size=3)
    flat.reshape(-1)[at] = [np.nan, np.inf, -np.inf]
    operands = [jnp.asarray(flat), *rest]
    for got, want in zip(run(case, operands), cases.baseline(case.product, *operands), strict=True):
        got, want = (np.asarray(a).astype(np.float32) for a in (got, want))
        assert not np.isfinite(want).all()
        assert (np.isnan(got) == np.isnan(want)).all()
        assert (np.isinf(got) == np.isinf(want)).all()
        assert (np.sign(got[np.isinf(got)]) == np.sign(want[np.isinf(want)])).all()


@pytest.mark.parametrize(
    "activation",
    [a if a in ("gelu", "leaky_relu") else pytest.param(a, marks=pytest.mark.extended) for a in ACTIVATIONS],
)
def test_activation(activation):
    product = cases.product("fprop", 1, (16, 32), (8, 8), 1, bias=True, activation=activation, outputs=("y", "z"))
    prove(
        Case(
            f"activation {activation}", product, Config((1, 8, 8), 32, tile_k=16, stages=2, mma_warpgroups=1), num_sms=1
        )
    )


def test_the_chosen_configuration_runs():
    product = cases.product("fprop", 2, (24, 40), (9, 10), 3, 1, 1, bias=True, activation="relu")
    prove(Case("chosen", product, serve.choose(product, Gpu(4))))


def in_seconds(case: Case) -> Case:
    """The case with fewer images and channels, where the interpreter, which multiplies a line of pixels at a time, has many."""
    cfg, p, problem = case.config, case.product, Problem.of(case.product)
    if work.executed_macs(problem, cfg) <= 2000 * cfg.tile_pixels[-1] * cfg.tile_n * cfg.tile_k:
        return case
    summed = problem.in_channels if cfg.im2col else min(problem.in_channels, cfg.tile_k * cfg.split_k - 8)
    channels = summed * p.spec.groups, min(problem.out_channels, cfg.tile_n - 8) * p.spec.groups
    c, o = channels if p.role == "fprop" else channels[::-1]
    images = max(1, tiling(problem, cfg).cta_pixels[0] - 1)
    return dataclasses.replace(case, product=dataclasses.replace(p, batch=images, in_channels=c, out_channels=o))


@pytest.mark.extended
@pytest.mark.timeout(280)
@pytest.mark.parametrize("case", paths.cases_of(DENSE), ids=str)
def test_what_is_chosen_for_wanted_products(case, count):
    prove_as_planned(in_seconds(case), count)


@pytest.mark.parametrize("role", ["fprop", "dgrad"])
def test_float32_weights_are_rounded_so_that_truncation_takes_nothing_from_them(role):
    case = Case(f"rounded {role}", cases.product(role, 1, (32, 32), (8, 8), 3, 1, 1, dtype="float32"), SMALLEST)
    pixels, w = case.operands()
    operands = as_multiplied(pixels), jnp.asarray(rounded_to_tf32(w))
    (got,) = run(case, [pixels, w])
    np.testing.assert_allclose(got, reference(case.product, *operands), rtol=0, atol=1e-5)
    assert np.abs(got - reference(case.product, operands[0], as_multiplied(w))).max() > 1e-4


def test_plain_launch_needs_no_context_and_jits():
    case = next(case for case in ladder.CASES if case.name == "one consumer")
    operands = case.operands()
    kernel = dataclasses.replace(case.kernel, gpu=Gpu(2))
    run_jitted = jax.jit(functools.partial(kernel.run, interpret=True))
    cases.check(case.product, run_jitted(*operands), operands)


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(n, marks=pytest.mark.extended) for n in range(2, 44))])
def test_generated(seed):
    prove(generated(seed))

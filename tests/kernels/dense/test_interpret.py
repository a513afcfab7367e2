"""The dense kernel in Mosaic's interpreter, with race detection, against float64.

The bound is relative to what XLA's own convolution makes of the same operands, see `cases.check`. What is multiplied and
loaded is counted on the way, and held against the plan and against the definition.
"""

import collections
import dataclasses
import functools
import math
import random
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import choice, config, mosaic, support, work
from pallas_conv.kernels.config import Config
from pallas_conv.kernels.launch import launch
from pallas_conv.verify.reference import reference, rounded_to_tf32, truncated_to_tf32
from tests.kernels import cases
from tests.kernels.cases import Case
from workloads import ladder, paths


@pytest.fixture(autouse=True)
def dropped_axes(monkeypatch):
    """As Mosaic does for TMA: an axis of which array and box have one is dropped, with its index, whatever that is."""
    load, store = mosaic.copy_gmem_to_smem, mosaic.copy_smem_to_gmem

    def seen(ref):
        (indexer,) = ref.transforms
        extents = [i.size if hasattr(i, "start") else 1 for i in indexer.indices]
        first = lambda i: mosaic.ds(0, 1) if hasattr(i, "start") else 0
        axes = zip(indexer.indices, extents, ref.ref.shape, strict=True)
        return ref.ref.at[tuple(first(i) if extent == size == 1 else i for i, extent, size in axes)]

    monkeypatch.setattr(mosaic, "copy_gmem_to_smem", lambda source, *to, **how: load(seen(source), *to, **how))
    monkeypatch.setattr(mosaic, "copy_smem_to_gmem", lambda source, target: store(source, seen(target)))


def as_multiplied(pixels: jax.Array) -> jax.Array:
    """As wgmma reads them: the interpreter multiplies all bits of a float32."""
    return jnp.asarray(truncated_to_tf32(pixels)) if pixels.dtype == jnp.float32 else pixels


def run(case: Case, operands: list[jax.Array]) -> list[jax.Array]:
    p, cfg, operands = case.product, case.config, [as_multiplied(operands[0]), *operands[1:]]
    outs = mosaic.run_interpreted(
        lambda *a: launch(p, cfg, *a, num_sms=case.num_sms, interpret=True), *operands, detect_races=True
    )
    jax.effects_barrier()  # whatever counted, has
    return outs


def prove(case: Case) -> None:
    operands = case.operands()
    cases.check(case.product, run(case, operands), operands)


@pytest.fixture
def count(monkeypatch, dropped_axes) -> collections.Counter:
    """Multiply-adds and loaded bytes, of every trip of every loop, from the operands that kernels hand to Mosaic."""
    count: collections.Counter = collections.Counter()
    multiply, copy, one_at_a_time = mosaic.wgmma, mosaic.copy_gmem_to_smem, threading.Lock()

    def now(name, amount):
        with one_at_a_time:  # the interpreter calls from several threads
            count[name] += amount

    def add(name, amount):
        jax.debug.callback(functools.partial(now, name, amount))

    def counting_wgmma(acc, a, b):
        (rows, depth), columns = a.shape, b.shape[1]
        add("macs", rows * depth * columns)
        multiply(acc, a, b)

    def counting_copy(source, target, **how):
        blocks = 2 if how.get("collective_axes") else 1  # which load a part each
        add("bytes", math.prod(target.shape) * target.dtype.itemsize // blocks)
        copy(source, target, **how)

    monkeypatch.setattr(mosaic, "wgmma", counting_wgmma)
    monkeypatch.setattr(mosaic, "copy_gmem_to_smem", counting_copy)
    return count


def prove_as_planned(case, count):
    prove(case)
    problem, cfg = config.Problem.of(case.product), case.config
    assert cases.useful(case.product) <= count["macs"] == work.executed_macs(problem, cfg)
    assert count["bytes"] == work.loaded_bytes(problem, cfg, case.num_sms)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.extended] * case.extended) for case in ladder.CASES], ids=str
)
def test_right_and_executed_as_planned(case, count):
    """Both at once, since interpretation takes seconds."""
    assert support.reasons(case.product, support.CAPABILITY) == ()
    prove_as_planned(case, count)


SMALLEST = Config((1, 8, 8), 32, bk=32, stages=2)
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
    case = Case(f"whole {name}", WHOLE[name], config.Config(box, 64, stages=2))
    run(case, case.operands())
    assert count["macs"] == cases.useful(case.product)


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
    """Not beyond the windows that see it: no zero that only the kernel multiplies with is multiplied with it."""
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
    [
        a if a in ("gelu", "leaky_relu") else pytest.param(a, marks=pytest.mark.extended)
        for a in support.ACTIVATIONS
        if a
    ],
)
def test_activation(activation):
    product = cases.product("fprop", 1, (16, 32), (8, 8), 1, bias=True, activation=activation, outputs=("y", "z"))
    prove(Case(f"activation {activation}", product, Config((1, 8, 8), 32, bk=16, stages=2, consumers=1), num_sms=1))


def test_the_chosen_configuration_runs():
    product = cases.product("fprop", 2, (24, 40), (9, 10), 3, 1, 1, bias=True, activation="relu")
    prove(Case("chosen", product, choice.choose(product, 4)))


def in_seconds(case: Case) -> Case:
    """Of fewer images and channels where the interpreter, which multiplies a line of pixels at a time, has many to multiply."""
    cfg, p, problem = case.config, case.product, config.Problem.of(case.product)
    if work.executed_macs(problem, cfg) <= 2000 * cfg.box[-1] * cfg.bn * cfg.bk:
        return case
    summed = problem.C if cfg.unfold else min(problem.C, cfg.bk * cfg.split - 8)
    channels = summed * p.spec.groups, min(problem.K, cfg.bn - 8) * p.spec.groups
    c, o = channels if p.role == "fprop" else channels[::-1]
    images = max(1, config.tiling(problem, cfg).cta_box[0] - 1)
    return dataclasses.replace(case, product=dataclasses.replace(p, batch=images, in_channels=c, out_channels=o))


@pytest.mark.extended
@pytest.mark.timeout(280)
@pytest.mark.parametrize("case", paths.cases(), ids=str)
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
    run_jitted = jax.jit(lambda *a: launch(case.product, case.config, *a, num_sms=2, interpret=True))
    cases.check(case.product, run_jitted(*operands), operands)


def generated(seed: int) -> Case:
    """A random product that is served, and a random configuration that is legal for it."""
    rng = random.Random(seed)
    while True:
        pick, nd = rng.choice, rng.choice((1, 2, 2, 2, 3))
        each = lambda lo, hi, nd=nd: tuple(rng.randint(lo, hi) for _ in range(nd))
        pair = lambda lo, hi: (rng.randint(lo, hi), rng.randint(lo, hi))
        size = each(1, (60, 16, 8)[nd - 1])
        role = pick(("fprop", "fprop", "dgrad"))
        groups = pick((1, 1, 1, 2, 3))
        dtype = pick(("bfloat16", "bfloat16", "float16", "float32"))
        epilogue = {}
        if role == "fprop":
            outputs = pick(support.OUTPUTS)
            epilogue = {"bias": pick((True, False)), "residual": pick((True, False, False))}
            epilogue |= {"activation": pick(support.ACTIVATIONS), "outputs": outputs}
        p = cases.product(
            role,
            rng.randint(1, 3) if rng.random() < 0.8 else rng.randint(32, 70),
            pair(1, 100) if groups == 1 else (groups * rng.randint(16, 40), groups * rng.randint(16, 40)),
            size,
            each(1, 5),
            padding=tuple(pair(-2, 5) for _ in range(nd)),
            dilation=each(1, 3),
            stride=pick((1, 1, each(1, 3))),
            input_dilation=pick((1, 1, each(1, 3))),
            groups=groups,
            models=pick((None, None, None, 2)),
            dtype=dtype,
            out_dtype=pick((dtype, dtype, "float32")),
            **epilogue,
        )
        if support.reasons(p, support.CAPABILITY):
            continue
        cfg = Config(
            box=pick(list(choice.boxes(64, nd))),
            bn=pick((16, 48, 64, 80)),
            bk=pick((8, 16, 32, 64)),
            taps=pick((1, 1, 2, 3)),
            halo=pick((True, False)),
            unfold=pick((True, False)) and p.in_channels + p.out_channels < 40,
            fold=pick((0, 1, nd)) if p.in_channels + p.out_channels < 60 else 0,
            stages=pick((2, 3)),
            consumers=pick((1, 2)),
            cluster=pick((1, 1, 2)),
            split=pick((1, 1, 2, 3)),
            out_bufs=pick((1, 2, 3)),
            skip=pick((True, True, False)),
        )
        problem = config.Problem.of(p)
        if config.illegal(problem, cfg):
            continue
        # The interpreter multiplies a line of pixels at a time: leave out what would take it minutes.
        if work.executed_macs(problem, cfg) <= 800 * cfg.box[-1] * cfg.bn * cfg.bk:
            return Case(f"generated {seed}", p, cfg, num_sms=rng.randint(2, 5))


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(n, marks=pytest.mark.extended) for n in range(2, 44))])
def test_generated(seed):
    prove(generated(seed))

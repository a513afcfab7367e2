"""Every formulation of every product it serves: against lax in float64, and its errors in float32 beside stock's."""

import dataclasses
import functools
import random
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv import formulations
from pallas_conv.equation import BILINEAR, Op
from pallas_conv.spec import ConvSpec, Product
from pallas_conv.target import Target

ROLES = ("fprop", "dgrad", "wgrad")
CPU = Target("cpu")


@dataclasses.dataclass(frozen=True)
class Problem:
    spec: ConvSpec
    batch: int
    in_channels: int
    out_channels: int

    def product(self, role: str, dtype: str) -> Product:
        return Product(role, self.spec, self.batch, self.in_channels, self.out_channels, dtype, dtype)

    def operands(self, role: str, seed: int = 0) -> list[np.ndarray]:
        shapes = {
            "x": (self.batch, self.in_channels, *self.spec.in_spatial),
            "ct": (self.batch, self.out_channels, *self.spec.out_spatial),
            "w": (self.out_channels, self.in_channels // self.spec.groups, *self.spec.kernel_spatial),
        }
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(shapes[name]) for name in BILINEAR[role][0]]

    def run(self, name: str, role: str, operands: Any, dtype: str, cache: float | None = None) -> np.ndarray:
        op = Op(self.spec, np.dtype(dtype), np.dtype(dtype))
        program = functools.partial(
            formulations.run_formulation, name, self.product(role, dtype), op=op, dtype=np.dtype(dtype), wide_sums=True,
            cache=cache, on_cpu=True,
        )  # fmt: skip
        optimised = {
            "xla_backend_optimization_level": 3
        }  # as users run it: `make test` would not optimise, and round more
        jitted = jax.jit(program, compiler_options=optimised)
        return np.asarray(jitted(*(jnp.asarray(t, dtype) for t in operands)))


def random_problem(seed: int) -> Problem:
    """A geometry that a layer can have: strides or input dilation; sometimes rows enough for several blocks."""
    rng = random.Random(zlib.crc32(f"program {seed}".encode()))
    ndim, groups = rng.choice((1, 2, 2, 3)), rng.choice((1, 1, 2, 3))
    c, o = rng.choice(((1, 1), (1, 2), (2, 1), (3, 4), (4, 3)))
    one = (1,) * ndim
    while True:
        ints = lambda lo, hi: tuple(rng.randint(lo, hi) for _ in range(ndim))
        strides, upsamples, size = ints(1, 3), rng.random() < 0.5, ints(1, 9)
        if rng.random() < 0.25:
            size = tuple(rng.randint(20, 40) if i == max(0, ndim - 2) else 4 for i in range(ndim))
        spec = ConvSpec(
            strides=one if upsamples else strides,
            padding=tuple((rng.randint(-1, 3), rng.randint(-1, 3)) for _ in range(ndim)),
            input_dilation=strides if upsamples else one,
            kernel_dilation=ints(1, 2),
            groups=groups,
            in_spatial=size,
            kernel_spatial=ints(1, 4),
        )
        if min(spec.out_spatial) > 0:
            return Problem(spec, rng.randint(1, 4), groups * c, groups * o)


@pytest.mark.parametrize("cache", [None, 4e3], ids=["whole", "blocks"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(1, 200))])
def test_every_formulation_is_stocks(seed, cache):
    problem = random_problem(seed)
    with jax.enable_x64(True):
        for role in ROLES:
            operands = problem.operands(role, seed)
            want = _exact(problem, role, operands)
            served = formulations.serving(problem.product(role, "float64"))
            assert served or role == "fprop" or max(problem.spec.kernel_dilation) > 1
            for formulation in served:
                got = problem.run(formulation.name, role, operands, "float64", cache)
                assert got.shape == want.shape, formulation.name
                np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11, err_msg=formulation.name)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.extended) for n in range(1, 90))])
def test_what_a_cpu_is_served_by(seed):
    """Layers large enough for every rule, cropped ones among them."""
    rng = random.Random(f"served {seed}")
    ndim, upsamples = rng.choice((1, 2, 3, 3)), rng.random() < 0.4
    ints = lambda lo, hi: tuple(rng.randint(lo, hi) for _ in range(ndim))
    one, steps, side = (1,) * ndim, ints(1, 2), (600, 20, 9)[ndim - 1]
    spec = ConvSpec(
        strides=one if upsamples else steps,
        padding=tuple((rng.randint(-2, 3), rng.randint(-2, 3)) for _ in range(ndim)),
        input_dilation=steps if upsamples else one,
        kernel_dilation=ints(1, 2),
        groups=rng.choice((1, 1, 1, 4)),
        in_spatial=ints(side - 2, side + 2),
        kernel_spatial=ints(1, 3),
    )
    problem = Problem(spec, 3, *rng.choice(((8, 8), (8, 24), (24, 8))))
    for role in ROLES:
        operands = problem.operands(role, seed)
        product = problem.product(role, "float32")
        with jax.enable_x64(True):
            want = _exact(problem, role, operands)
        name, _ = formulations.choose(product, CPU)
        got = problem.run(name, role, operands, "float32", formulations.cache(CPU))
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max(), f"{role}: {name}"


@pytest.mark.parametrize(
    "problem",
    [
        Problem(ConvSpec((1,), ((1, 1),), (1,), (1,), 1, (30,), (3,)), 256, 4, 4),
        Problem(ConvSpec((1,), ((32, 32),), (1,), (8,), 16, (660,), (9,)), 4, 16, 16),
    ],
    ids=["channels", "long blocks"],
)
def test_weight_gradients_of_sequences_that_loop_over_their_channels(problem):
    """The rows of a block times the channels of a group are too many to be written out."""
    assert formulations.choose(problem.product("wgrad", "float32"), CPU)[0] == "correlate_rows"
    operands = problem.operands("wgrad")
    with jax.enable_x64(True):
        want = _exact(problem, "wgrad", operands)
        got = problem.run("correlate_rows", "wgrad", operands, "float64", formulations.cache(CPU))
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("role", ROLES)
def test_integers_are_left_to_stock(role):
    """Integers wrap around in stock's program."""
    for problem in LAYERS.values():
        for dtype in ("int8", "int32"):
            assert formulations.choose(problem.product(role, dtype), CPU)[0] == formulations.STOCK


def _exact(problem: Problem, role: str, operands: list[np.ndarray]) -> np.ndarray:
    """The exact result, by lax on an input that holds its padding, and jax's derivatives: nothing of ours, nothing misread."""
    from jax import lax

    spec, pads = problem.spec, [(0, 0, 0), (0, 0, 0)]
    pads += [(lo, hi, d - 1) for (lo, hi), d in zip(spec.padding, spec.input_dilation, strict=True)]

    def conv(x: jax.Array, w: jax.Array) -> jax.Array:
        x = lax.pad(x, jnp.zeros((), x.dtype), pads)
        how = {"rhs_dilation": spec.kernel_dilation, "feature_group_count": spec.groups}
        return lax.conv_general_dilated(x, w, spec.strides, "VALID", **how)

    x = jnp.zeros((problem.batch, problem.in_channels, *spec.in_spatial))
    w = jnp.zeros((problem.out_channels, problem.in_channels // spec.groups, *spec.kernel_spatial))
    a, b = map(jnp.asarray, operands)
    if role == "fprop":
        return np.asarray(conv(a, b))
    if role == "dgrad":
        return np.asarray(jax.vjp(lambda x: conv(x, b), x)[1](a)[0])
    # By linearity, tap by tap: XLA's CPU compiler does not survive some grouped strided weight gradients.
    eye = jnp.eye(w.size).reshape(w.size, *w.shape)
    return np.asarray(lax.map(lambda e: jnp.vdot(conv(a, e), b), eye).reshape(w.shape))


LAYERS = {
    "depthwise": Problem(ConvSpec((1, 1), ((3, 3), (3, 3)), (1, 1), (1, 1), 16, (40, 28), (7, 7)), 3, 16, 16),
    "depthwise_31": Problem(ConvSpec((1, 1), ((15, 15), (15, 15)), (1, 1), (1, 1), 4, (40, 20), (31, 31)), 1, 4, 4),
    "depthwise_1d": Problem(ConvSpec((1,), ((30, 0),), (1,), (1,), 8, (400,), (31,)), 2, 8, 8),
    "depthwise_strided": Problem(ConvSpec((2, 2), ((2, 2), (2, 2)), (1, 1), (1, 1), 12, (28, 28), (5, 5)), 2, 12, 12),
    "depthwise_3d": Problem(
        ConvSpec((1, 1, 1), ((1, 1),) * 3, (1, 1, 1), (1, 1, 1), 6, (10, 20, 9), (3, 3, 3)), 2, 6, 6
    ),
    "grouped": Problem(ConvSpec((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 8, (33, 20), (3, 3)), 2, 32, 32),
    "transposed": Problem(ConvSpec((1, 1), ((1, 2), (1, 2)), (2, 2), (1, 1), 1, (16, 16), (3, 3)), 2, 32, 16),
    "transposed_3d": Problem(
        ConvSpec((1, 1, 1), ((1, 1),) * 3, (2, 2, 2), (1, 1, 1), 1, (8, 8, 8), (2, 2, 2)), 1, 16, 8
    ),
    "dense": Problem(ConvSpec((1, 1), ((1, 2), (1, 1)), (1, 1), (1, 1), 1, (14, 13), (3, 3)), 2, 40, 24),
    "dense_wide": Problem(ConvSpec((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1, (8, 9), (3, 3)), 2, 192, 200),
    "dense_strided": Problem(ConvSpec((2, 2), ((1, 2), (2, 0)), (1, 1), (1, 1), 1, (14, 17), (3, 3)), 2, 136, 96),
    "dense_3d": Problem(ConvSpec((1, 1, 1), ((1, 1),) * 3, (1, 1, 1), (1, 1, 1), 1, (8, 10, 9), (3, 3, 3)), 2, 16, 24),
    "pointwise_strided": Problem(ConvSpec((2, 2), ((0, 0),) * 2, (1, 1), (1, 1), 1, (28, 28), (1, 1)), 2, 48, 64),
}


def _inputs(problem: Problem, role: str, kind: str) -> list[np.ndarray]:
    a, b = problem.operands(role, 7)
    if kind == "dynamic range":  # large where the other operand is small, as after an unlucky normalisation
        a[..., : a.shape[-1] // 2] *= 1e4
        if role == "wgrad":
            b[..., : b.shape[-1] // 2] *= 1e-4
    return [np.asarray(t, "float32") for t in (a, b)]


@pytest.mark.parametrize("kind", ["normal", pytest.param("dynamic range", marks=pytest.mark.extended)])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "layer", [pytest.param(n, marks=[pytest.mark.extended] * n.startswith(("depthwise_", "dense_"))) for n in LAYERS]
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.extended)])
def test_errors_are_at_most_twice_stocks(layer, role, kind, dtype):
    """Errors against float64, in the output's max norm, are allowed one unit in the last place of its largest value more."""
    problem = LAYERS[layer]
    operands = [np.asarray(jnp.asarray(t, dtype).astype("float32")) for t in _inputs(problem, role, kind)]
    with jax.enable_x64(True):
        want = problem.run(formulations.STOCK, role, operands, "float64")
    error = lambda name: np.abs(problem.run(name, role, operands, dtype).astype("float64") - want).max()
    stock, ulp = error(formulations.STOCK), float(jnp.finfo(dtype).eps) * np.abs(want).max()
    for formulation in formulations.serving(problem.product(role, dtype)):
        assert error(formulation.name) <= 2 * stock + ulp, formulation.name


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(
            name, marks=() if name in ("depthwise", "transposed", "dense", "dense_strided") else pytest.mark.extended
        )
        for name in LAYERS
    ],
)
def test_what_is_not_finite_spreads_no_further_than_in_stock(layer, role):
    problem = LAYERS[layer]
    a, b = (np.asarray(t, "float32") for t in problem.operands(role, 3))
    a[(0, 1, *(n - 1 for n in a.shape[2:]))] = np.nan
    a[(-1, 0, *(n // 2 for n in a.shape[2:]))] = np.inf
    stock = problem.run(formulations.STOCK, role, (a, b), "float32")
    for formulation in formulations.serving(problem.product(role, "float32")):
        got = problem.run(formulation.name, role, (a, b), "float32", cache=1e5)
        assert not (~np.isfinite(got) & np.isfinite(stock)).any(), formulation.name


@pytest.mark.parametrize(
    "layer", [pytest.param(name, marks=() if name == "transposed" else pytest.mark.extended) for name in LAYERS]
)
def test_twice_the_same_bits(layer):
    problem = LAYERS[layer]
    for role in ROLES:
        operands = problem.operands(role, 5)
        for formulation in formulations.serving(problem.product(role, "float32")):
            once, again = (problem.run(formulation.name, role, operands, "float32", 1e5) for _ in range(2))
            assert np.array_equal(once, again), formulation.name


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("dtype", ["complex64", "float16"])
def test_other_dtypes_and_models(role, dtype):
    """Independent models side by side, each like stock's."""
    spec = ConvSpec((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 2, (6, 5), (3, 3))
    problem = Problem(spec, 2, 4, 4)
    op = Op(spec, np.dtype(dtype), np.dtype(dtype), ensemble_axes=1)
    operands = [jnp.stack([jnp.asarray(t, dtype)] * 2) for t in problem.operands(role, 1)]
    product = dataclasses.replace(problem.product(role, dtype), models=2)
    run = lambda name: formulations.run_formulation(
        name, product, *operands, op, np.dtype(dtype), wide_sums=True, on_cpu=True
    )
    served = formulations.serving(product)
    assert len(served) >= 2
    want = np.asarray(run(formulations.STOCK))
    for formulation in served:
        tolerance = 1e-5 if dtype == "complex64" else 2e-2
        np.testing.assert_allclose(np.asarray(run(formulation.name)), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("role", ROLES)
def test_matrix_products_read_bfloat16_as_it_is_where_that_is_fast(role):
    """Products and sums are the same as of widened operands: only their order differs, before one rounding."""
    problem = LAYERS["dense"]
    op = Op(problem.spec, jnp.dtype("bfloat16"), jnp.dtype("bfloat16"))
    operands = [jnp.asarray(t, "bfloat16") for t in problem.operands(role, 2)]
    widened = [np.asarray(t, "float64") for t in operands]
    with jax.enable_x64(True):
        exact = problem.run(formulations.STOCK, role, widened, "float64")
    product = problem.product(role, "bfloat16")
    for formulation in formulations.serving(product):
        run = lambda narrow, name=formulation.name: jax.jit(
            functools.partial(
                formulations.run_formulation, name, product, op=op, dtype=op.compute_dtype, wide_sums=True, on_cpu=True,
                narrow_matmuls=narrow,
            )
        )  # fmt: skip
        narrow, wide = (run(n).lower(*operands).as_text() for n in (True, False))
        of_bfloat16 = re.compile(r"dot_general.*xbf16>, tensor<.*xbf16>\) -> tensor<.*xf32>")
        assert bool(of_bfloat16.search(narrow)) == formulation.matmul
        assert not of_bfloat16.search(wide)
        got, want = (np.asarray(run(n)(*operands), "float32") for n in (True, False))
        for reference in (want, exact):
            assert np.abs(got - reference).max() <= 2.0**-7 * np.abs(exact).max(), formulation.name

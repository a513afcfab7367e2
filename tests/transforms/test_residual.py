"""Residuals, added to the sum before the activation: each transformation against stock's layer plus an addition, in float64."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import pallas_conv as pc
from pallas_conv.activations import applied
from tests.transforms import programs, standin
from tests.transforms.problems import FUNCTIONS, LAYERS, Problem, assert_close, layer

MODELS, BATCH = 2, 3


class Data(NamedTuple):
    """One of each, images batched; with an s, MODELS of them."""

    w: Array
    b: Array
    x: Array
    r: Array
    ws: Array
    bs: Array
    xs: Array
    rs: Array


def draw(groups: int, dtype: Any = jnp.float32) -> Data:
    rng = np.random.default_rng(3)
    shapes = {"w": (4, 4 // groups, 3, 3), "b": (4,), "x": (BATCH, 4, 5, 6), "r": (BATCH, 4, 5, 6)}
    shapes |= {f"{name}s": (MODELS, *shape) for name, shape in shapes.items()}
    return Data(**{name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()})


def calls(problem: Problem) -> tuple[Callable, Callable]:
    """(w, b, x, r) -> y of one image: by us, and by stock and an addition."""
    settings = {"padding": 1, "groups": problem.groups}

    def ours(w, b, x, r):
        if problem.kind in FUNCTIONS:
            return getattr(pc, problem.kind)(x, w, b, residual=r, activation=problem.activation, **settings)
        return layer(getattr(pc, problem.kind), w, b, activation=problem.activation, **settings)(x, residual=r)

    linear = Problem(problem.kind, None, problem.groups).stock.same
    return ours, lambda w, b, x, r: applied(problem.activation, linear(w, b, x) + r)


def images(call):
    return jax.vmap(call, (None, None, 0, 0))


def loss(call):
    return lambda *at: jnp.sum(jnp.sin(call(*at)))


def gradient(call):
    return jax.grad(loss(images(call)), (0, 1, 2, 3))


def one(d: Data):
    return d.w, d.b, d.x[0], d.r[0]


def batch(d: Data):
    return d.w, d.b, d.x, d.r


CASES = {
    "one image": lambda f, d: f(*one(d)),
    "images": lambda f, d: images(f)(*batch(d)),
    "images sharing a residual": lambda f, d: jax.vmap(f, (None, None, 0, None))(d.w, d.b, d.x, d.r[0]),
    "residuals of one image": lambda f, d: jax.vmap(f, (None, None, None, 0))(d.w, d.b, d.x[0], d.r),
    "models": lambda f, d: jax.vmap(images(f))(d.ws, d.bs, d.xs, d.rs),
    "models sharing images": lambda f, d: jax.vmap(images(f), (0, 0, None, 0))(d.ws, d.bs, d.x, d.rs),
    "models sharing images and residuals": lambda f, d: jax.vmap(images(f), (0, 0, None, None))(d.ws, d.bs, d.x, d.r),
    "gradient": lambda f, d: gradient(f)(*batch(d)),
    "gradient of the residual": lambda f, d: jax.grad(lambda r: loss(images(f))(d.w, d.b, d.x, r))(d.r),
    "gradient of residual and bias": lambda f, d: jax.grad(
        lambda b, r: loss(images(f))(d.w, b, d.x, r), (0, 1)
    )(d.b, d.r),
    "x as its own residual": lambda f, d: jax.grad(lambda x: loss(images(f))(d.w, d.b, x, x))(d.x),
    "gradients of models": lambda f, d: jax.vmap(gradient(f))(d.ws, d.bs, d.xs, d.rs),
    "gradients of examples": lambda f, d: jax.vmap(jax.grad(loss(f), (0, 1, 2, 3)), (None, None, 0, 0))(*batch(d)),
    "rows of a jacobian": lambda f, d: jax.jacrev(f, (0, 3))(*one(d)),
    "checkpoint": lambda f, d: jax.grad(loss(jax.checkpoint(images(f))), (0, 3))(*batch(d)),
    "scan": lambda f, d: jax.grad(
        lambda w: loss(lambda r: lax.scan(lambda h, _: (f(w, d.b, h, r), None), d.x[0], length=3)[0])(d.r[0])
    )(d.w),
    "jvp of all": lambda f, d: jax.jvp(images(f), batch(d), batch(d)),
    "jvp of the residual": lambda f, d: jax.jvp(lambda r: images(f)(d.w, d.b, d.x, r), (d.r,), (d.r,)),
    "jvp of residual and bias": lambda f, d: jax.jvp(
        lambda b, r: images(f)(d.w, b, d.x, r), (d.b, d.r), (d.b, d.r)
    ),
    "hessian times a vector": lambda f, d: jax.jvp(gradient(f), batch(d), batch(d))[1],
    "third derivatives": lambda f, d: jax.jvp(
        lambda *at: jax.jvp(gradient(f), at, batch(d))[1], batch(d), batch(d)
    )[1],
    "gradient of a gradient": lambda f, d: jax.grad(
        lambda w: jnp.sum(jax.grad(lambda r: loss(f)(w, d.b, d.x[0], r))(d.r[0]) ** 2)
    )(d.w),
}  # fmt: skip
PROBLEMS = [
    Problem("Conv2d", None),
    Problem("Conv2d", "silu"),
    Problem("Conv2d", "relu", groups=2),
    Problem("ConvTranspose2d", "silu"),
    Problem("conv", "silu"),
    Problem("conv_transpose", "relu"),
]


MATRIX = [
    pytest.param(
        problem,
        name,
        id=f"{problem}-{name}".replace(" ", "_"),
        marks=[] if problem.activation == "silu" and i % 2 == (problem.kind in LAYERS) else pytest.mark.extended,
    )
    for problem in PROBLEMS
    for i, name in enumerate(CASES)
]


@pytest.mark.parametrize(("problem", "name"), MATRIX)
def test_as_stock_plus_an_addition(problem, name):
    ours, stock = calls(problem)
    case = CASES[name]
    with jax.enable_x64(True):
        d = draw(problem.groups, jnp.float64)
        assert_close(jax.jit(functools.partial(case, ours))(d), jax.jit(functools.partial(case, stock))(d))


def test_tangents_of_bias_and_residual_in_their_own_dtypes():
    d = draw(1)
    made = layer(pc.Conv2d, d.w, d.b, padding=1, compute_dtype=jnp.bfloat16)
    r = d.r[0].astype(jnp.bfloat16)
    call = lambda b, r: eqx.tree_at(lambda m: m.bias, made, b)(d.x[0], residual=r)
    _, dot = jax.jvp(call, (made.bias, r), (made.bias, r))
    assert dot.dtype == jnp.bfloat16
    np.testing.assert_allclose(dot.astype(jnp.float32), made.bias + r.astype(jnp.float32), rtol=0.02, atol=0.02)


def test_it_is_linear_in_the_residual():
    d = draw(1)
    ours, _ = calls(Problem("Conv2d", None))
    transpose = jax.linear_transpose(lambda r: ours(d.w, jnp.zeros(4), jnp.zeros_like(d.x[0]), r), d.r[0])
    (ct,) = transpose(d.r[1])
    np.testing.assert_array_equal(ct, d.r[1])


EQUATIONS = {
    "forward": (lambda f, d: images(f)(*batch(d)), {"affine y": 1}),
    "gradient": (lambda f, d: gradient(f)(*batch(d)), {"affine y z": 1, "bwd dx dw db dr": 1}),
    "only dw of it": (lambda f, d: gradient(f)(*batch(d))[0], {"affine y z": 1, "bwd dw": 1}),
    "of the residual": (lambda f, d: jax.grad(lambda r: loss(images(f))(d.w, d.b, d.x, r))(d.r), {"affine y z": 1}),
    "jvp": (lambda f, d: jax.jvp(images(f), batch(d), batch(d)), {"affine y z": 1, "tangent": 1}),
    "ensemble": (lambda f, d: jax.vmap(gradient(f))(d.ws, d.bs, d.xs, d.rs), {"affine y z": 1, "bwd dx dw db dr": 1}),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_equations(name):
    f, expected = EQUATIONS[name]
    ours, _ = calls(Problem("Conv2d", "silu"))
    assert programs.equations(functools.partial(f, ours), draw(1)) == expected


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("channels", ["in", "out"])
def test_on_devices(axis_type, channels, monkeypatch):
    """Split by the rules of this package: images over x, channels over y; with input channels split it is added once."""
    ours, stock = calls(Problem("Conv2d", "silu"))
    d = draw(1)
    d = d._replace(x=jnp.concatenate([d.x, d.x])[:4], r=jnp.concatenate([d.r, d.r])[:4])
    expected = jax.jit(lambda *at: (images(stock)(*at), gradient(stock)(*at)))(*batch(d))
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(axis_type,) * 2)
    specs = {
        "in": (P(None, "y"), P(), P("x", "y"), P("x")),
        "out": (P("y"), P("y"), P("x"), P("x", "y")),
    }[channels]
    standin.partition_everything(monkeypatch)
    with jax.set_mesh(mesh) if axis_type == AxisType.Explicit else contextlib.nullcontext():
        placed = [jax.device_put(t, NamedSharding(mesh, spec)) for t, spec in zip(batch(d), specs, strict=True)]
        found = jax.jit(lambda *at: (images(ours)(*at), gradient(ours)(*at)))(*placed)
    assert_close(jax.device_get(found), jax.device_get(expected), 20)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_layouts_and_batch_axes(layout):
    d = draw(1)
    x, r = jnp.stack([d.x, d.x + 1]), jnp.stack([d.r, d.r - 1])
    expected = pc.conv(x, d.w, d.b, padding=1) + r
    if layout == "channels_last":
        x, r, expected = (jnp.moveaxis(t, 2, -1) for t in (x, r, expected))
        w = jnp.moveaxis(d.w, (0, 1), (-1, -2))
    else:
        w = d.w
    found = pc.conv(x, w, d.b, padding=1, residual=r, layout=layout)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_residual_that_does_not_fit():
    d = draw(1)
    conv = layer(pc.Conv2d, d.w, d.b, padding=1)
    with pytest.raises(ValueError, match=r"residual .*\(4, 5, 6\); got \(1, 5, 6\)"):
        conv(d.x[0], residual=d.r[0, :1])
    with pytest.raises(TypeError, match=r"residual .* float32; got bfloat16"):
        conv(d.x[0], residual=d.r[0].astype(jnp.bfloat16))
    x, w = jnp.moveaxis(d.x, 1, -1), jnp.moveaxis(d.w, (0, 1), (-1, -2))
    with pytest.raises(ValueError, match=r"residual .*\(3, 5, 6, 4\); got \(3, 4, 5, 6\)"):
        pc.conv(x, w, d.b, padding=1, residual=d.r, layout="channels_last")
    with pytest.raises(TypeError, match="residual"):
        pc.conv_transpose(d.x, d.w, d.b, padding=1, residual="r")


def test_interpreted_in_a_training_step():
    """A training step through the interpreted kernel, which also saves z, gives the lax program's result, to rounding."""
    rng = np.random.default_rng(5)
    w = jnp.asarray(rng.standard_normal((16, 16, 3, 3)) / 12, jnp.bfloat16)
    b, x = (
        jnp.asarray(rng.standard_normal(16), jnp.bfloat16),
        jnp.asarray(rng.standard_normal((2, 16, 5, 6)), jnp.bfloat16),
    )
    net = lambda *at: jnp.sum(pc.conv(*at[:3], residual=at[3], padding=1, activation="silu").astype(jnp.float32) ** 2)
    with pc.implementation(("interpret", "xla")):
        found = jax.jit(jax.value_and_grad(net, (0, 1, 2, 3)))(x, w, b, x)
    with pc.implementation("xla"):
        expected = jax.jit(jax.value_and_grad(net, (0, 1, 2, 3)))(x, w, b, x)
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        got, want = (np.asarray(t).astype(np.float32) for t in (got, want))
        assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()

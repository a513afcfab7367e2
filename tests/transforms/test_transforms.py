"""Every transformation of JAX, of layers and functions of this package, against the same of stock equinox, in float64."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet

import pallas_conv as pc
from tests.transforms.problems import FUNCTIONS, LAYERS, MAIN, REST, Problem, assert_close, data, layer
from tests.transforms.transformations import CASES
from tests.transforms.transformations.batching import forward_pass
from tests.transforms.transformations.registry import Case, args, images
from tests.transforms.transformations.reverse import ensemble_gradients, grad_of_vmap, per_example_gradients


def agree(case: Case, problem: Problem, dtype: Any = "float64") -> None:
    with jax.enable_x64(dtype == "float64"):
        found, expected = jax.jit(lambda d: (case(problem.ours, d), case(problem.stock, d)))(data(problem, dtype))
        assert_close(found, expected)


def matrix() -> Iterator[Any]:
    """The problems of the tests: in CI all transformations of one, and every sixth of each of the other main ones."""
    for problem in [*MAIN, *REST]:
        for i, name in enumerate(CASES):
            often = problem == MAIN[0] or (problem in MAIN and i % 6 == MAIN.index(problem))
            yield pytest.param(problem, name, id=f"{problem}-{name}", marks=[] if often else [pytest.mark.extended])


@pytest.mark.parametrize(("problem", "name"), list(matrix()))
def test_transformation(problem, name):
    agree(CASES[name], problem)


@pytest.mark.parametrize("case", [forward_pass, grad_of_vmap, per_example_gradients, ensemble_gradients])
@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_in_float32(problem, case):
    agree(case, problem, "float32")


@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_eager(problem):
    """Layers run without an outer jit, and with jit disabled."""
    d = data(problem, "float32")
    expected = grad_of_vmap(problem.stock, d)
    assert_close(grad_of_vmap(problem.ours, d), expected)
    with jax.disable_jit():
        assert_close(grad_of_vmap(problem.ours, d), expected)
        assert_close(forward_pass(problem.ours, d), forward_pass(problem.stock, d))


@pytest.mark.parametrize("kind", [*LAYERS, *FUNCTIONS])
def test_float0(kind):
    """Integer images: their tangents have no bits."""
    problem = Problem(kind, None)
    d = data(problem, "float32")
    x = jnp.round(3 * d.x).astype(jnp.int32)
    geometry = {"stride": 2, "compute_dtype": jnp.float32}

    def ours(w, b, x):
        if kind in FUNCTIONS:
            return jnp.sum(jnp.sin(getattr(pc, kind)(x, w, b, **geometry)))
        return jnp.sum(jnp.sin(jax.vmap(layer(getattr(pc, kind), w, b, **geometry))(x)))

    dw, db, dx = jax.grad(ours, (0, 1, 2), allow_int=True)(d.w, d.b, x)
    assert dx.dtype == jax.dtypes.float0
    expected = jax.grad(ours, (0, 1))(d.w, d.b, x.astype(jnp.float32))
    assert_close((dw, db), expected)
    zero = np.zeros(x.shape, jax.dtypes.float0)
    assert_close(
        jax.jvp(ours, (d.w, d.b, x), (d.w, d.b, zero))[1],
        jax.jvp(lambda w, b: ours(w, b, x.astype(jnp.float32)), (d.w, d.b), (d.w, d.b))[1],
    )


@pytest.mark.parametrize(
    "problem",
    [Problem(k, act, g) for kinds, g in ((LAYERS, 2), (FUNCTIONS, 1)) for k in kinds for act in (None, "silu")],
    ids=str,
)
def test_jet(problem):
    """Taylor series along a curve x(t), w(t), b(t). JAX has none of its own jax.nn.relu."""

    def series(f, d):
        along = jax.tree.map(lambda t: [jnp.cos(t), jnp.sin(t), t], args(d))
        return jet.jet(images(f.strided), args(d), along)

    agree(series, problem)


@pytest.mark.parametrize("kind", LAYERS)
def test_filter_transformations(kind):
    """Equinox's transformations take the layer as a pytree."""
    problem = Problem(kind, "silu")
    d = data(problem, "float32")
    ours = layer(getattr(pc, kind), d.w, d.b, activation="silu", **problem.geometries["strided"])
    stock = layer(getattr(eqx.nn, kind), d.w, d.b, **problem.geometries["strided"])

    def total(call, x):
        return jnp.sum(jnp.sin(jax.vmap(call)(x)))

    found = eqx.filter_jit(eqx.filter_value_and_grad(total))(ours, d.x)
    expected = eqx.filter_value_and_grad(lambda m, x: total(lambda x: jax.nn.silu(m(x)), x))(stock, d.x)
    assert_close(jax.tree.leaves(found), jax.tree.leaves(expected))
    assert isinstance(found[1], getattr(pc, kind))
    ensemble = eqx.filter_vmap(lambda m, x: m(x), in_axes=(eqx.if_array(0), None))
    stacked = jax.tree.map(lambda t: jnp.stack([t, 2 * t]) if eqx.is_array(t) else t, ours)
    doubled = jax.tree.map(lambda t: 2 * t if eqx.is_array(t) else t, ours)
    assert_close(ensemble(stacked, d.x[0]), jnp.stack([ours(d.x[0]), doubled(d.x[0])]))

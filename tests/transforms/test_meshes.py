"""Transformations on meshes of devices, automatic and explicit, and under `pmap`."""

import functools

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.transforms.problems import LAYERS, MAIN, Data, assert_close, data
from tests.transforms.transformations.batching import vmap_x
from tests.transforms.transformations.devices import mesh_of
from tests.transforms.transformations.higher import hvp_forward_over_reverse
from tests.transforms.transformations.registry import args, batch_loss, images
from tests.transforms.transformations.reverse import grad_of_vmap, per_example_gradients


@pytest.mark.parametrize("case", [vmap_x, grad_of_vmap, hvp_forward_over_reverse, per_example_gradients])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_mesh(problem, axis_type, case):
    mesh = mesh_of(3, axis_types=(axis_type,))
    specs = {"x": P("d"), "ct": P("d")}

    def place(d):
        return Data(
            *(jax.device_put(np.asarray(t), NamedSharding(mesh, specs.get(n, P()))) for n, t in d._asdict().items())
        )

    d = data(problem, "float32")
    expected = jax.jit(lambda d: case(problem.stock, d))(d)
    with jax.set_mesh(mesh):
        assert_close(jax.jit(lambda d: case(problem.ours, d))(place(d)), expected)


@pytest.mark.parametrize("operand", [0, 1, 2], ids=["w", "b", "x"])
@pytest.mark.parametrize("problem", [p for p in MAIN if p.kind in LAYERS], ids=str)
def test_jvp_on_an_explicit_mesh(problem, operand):
    """The tangent of one operand alone has the sharding of the result, also where only the replicated bias moves."""
    mesh = mesh_of(3, axis_types=(AxisType.Explicit,))

    def push(f, *at):
        one = lambda t: images(f.strided)(*[*at[:operand], t, *at[operand + 1 :]])
        return jax.jvp(one, (at[operand],), (at[operand],))

    d = data(problem, "float32")
    expected = push(problem.stock, *args(d))
    with jax.set_mesh(mesh):
        specs = (P(), P(), P("d"))
        placed = [jax.device_put(np.asarray(t), NamedSharding(mesh, s)) for t, s in zip(args(d), specs, strict=True)]
        y, dot = jax.jit(functools.partial(push, problem.ours))(*placed)
    assert y.sharding.spec == dot.sharding.spec
    assert y.sharding.spec[0] == "d"
    assert_close((y, dot), expected)


@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_pmap(problem):
    d = data(problem, "float32")
    gradient = lambda f: jax.grad(lambda *at: lax.pmean(batch_loss(f.strided)(*at), "d"), (0, 1, 2))
    run = lambda f: jax.pmap(gradient(f), axis_name="d", in_axes=(None, None, 0))(d.w, d.b, d.xs)
    assert_close(run(problem.ours), run(problem.stock))

"""pallas_conv.lax against jax.lax under every transformation."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import pallas_conv as pc
from pallas_conv import lax as ours
from tests.lax.calls import NAMES, draw, served


def pair(conv):
    return lambda x, w: conv(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def same(transformed, *args):
    got, want = (transformed(pair(conv))(*args) for conv in (ours.conv_general_dilated, lax.conv_general_dilated))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)
    assert jax.tree.map(jax.typeof, got) == jax.tree.map(jax.typeof, want)


TRANSFORMATIONS = {
    "jit": jax.jit,
    "jvp": lambda f: lambda x, w: jax.jvp(f, (x, w), (jnp.sin(x), jnp.cos(w))),
    "linear_transpose": lambda f: lambda x, w: jax.linear_transpose(lambda x: f(x, w), x)(f(x, w)),
    "hessian": lambda f: lambda x, w: jax.hessian(lambda w: jnp.sum(jnp.tanh(f(x, w))))(w),
    "vmap over inputs": lambda f: lambda x, w: jax.vmap(f, (0, None))(jnp.stack([x, 2 * x]), w),
    "vmap over kernels": lambda f: lambda x, w: jax.vmap(f, (None, 0))(x, jnp.stack([w, 2 * w])),
    "vmap over both": lambda f: lambda x, w: jax.vmap(f, (1, 0), 2)(jnp.stack([x, 2 * x], 1), jnp.stack([w, 2 * w])),
    "a gradient an example": lambda f: (
        lambda x, w: jax.vmap(jax.grad(lambda w, x: jnp.sum(f(x[None], w) ** 2)), (None, 0))(w, x)
    ),
    "checkpoint": lambda f: jax.grad(lambda x, w: jnp.sum(jax.checkpoint(f)(x, w) ** 2), (0, 1)),
    "scan": lambda f: lambda x, w: lax.scan(lambda h, _: (h, f(h, w)), x, None, length=2)[1],
    "disable_jit": lambda f: jax.disable_jit()(f),
    "a precision from outside": lambda f: jax.default_matmul_precision("highest")(f),
    "shard_map": lambda f: (
        lambda x, w: jax.shard_map(
            f,
            mesh=jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,)),
            in_specs=(PartitionSpec("d"), PartitionSpec()),
            out_specs=PartitionSpec("d"),
        )(x, w)
    ),
    "an export": lambda f: lambda x, w: jax.export.export(jax.jit(f))(x, w).call(x, w),
    "an export of any batch": lambda f: (
        lambda x, w: jax.export.export(jax.jit(f))(
            jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 6, 5, 3"), x.dtype), w
        ).call(x, w)
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
    same(TRANSFORMATIONS[name], draw(2, 6, 5, 3), draw(3, 2, 3, 4))


@pytest.mark.parametrize("axes", [("d",), ("d", None, None, None)])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_batches_over_devices(kind, axes):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        x = jax.device_put(draw(2, 6, 5, 3), NamedSharding(mesh, PartitionSpec(*axes)))
        same(jax.jit, x, jax.device_put(draw(3, 2, 3, 4), NamedSharding(mesh, PartitionSpec())))


def test_float64():
    with jax.enable_x64(True):
        same(jax.jit, draw(2, 6, 5, 3, dtype="float64"), draw(3, 2, 3, 4, dtype="float64"))


@pytest.mark.parametrize(
    "run", [lambda f: f, jax.jit, lambda f: jax.jit(jax.value_and_grad(lambda x, w: f(x, w).sum()))]
)
def test_debug_nans_says_where(run):
    f = pair(ours.conv_general_dilated)
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match=r"\(nan\) encountered in conv_"):
        run(f)(draw(2, 6, 5, 3) * jnp.inf, 0 * draw(3, 2, 3, 4))
    with jax.debug_nans(True):
        assert jnp.isfinite(f(draw(2, 6, 5, 3), draw(3, 2, 3, 4))).all()


def test_a_policy_of_checkpoints_knows_them():
    f = pair(ours.conv_general_dilated)
    x, w = draw(2, 6, 5, 3), draw(3, 2, 3, 4)
    gradient = lambda policy: jax.value_and_grad(
        lambda w: jnp.sum(jax.checkpoint(lambda w: jnp.sin(f(x, w)), policy=policy)(w))
    )
    assert [served(gradient(policy), w) for policy in (pc.dots_saveable, None)] == [2, 3]


@pytest.mark.parametrize("name", NAMES)
def test_they_can_be_pickled(name):
    assert pickle.loads(pickle.dumps(getattr(ours, name))) is getattr(ours, name)


def test_the_implementation_follows_the_context():
    f = pair(ours.conv_general_dilated)
    args = draw(2, 6, 5, 32, dtype="bfloat16"), draw(3, 2, 32, 64, dtype="bfloat16")
    with pc.implementation("xla"):  # exactly lax's program, in whatever order its operands lie
        assert pc.explain(f, *args, device="h100").unconverted == 1
    with pc.implementation(("mosaic", "xla")):
        assert [p.formulation for p in pc.explain(f, *args, device="a100")] == ["stock"]
    with pc.implementation("mosaic"):
        assert [p.implementation for p in pc.explain(f, *args, device="h100")] == ["mosaic"]

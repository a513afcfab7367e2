"""Interpreted kernels through every public entry and transformation, against the lax programs of the same calls."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import pallas_conv as pc
from pallas_conv.kernels import mosaic
from tests.transforms.problems import layer

PREFERENCE = ("interpret", "xla")
RNG = np.random.default_rng(0)
X, W, B = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 8, 6, 6), (8, 8, 3, 3), (8,)))
BF16 = tuple(jnp.asarray(t, jnp.bfloat16) for t in (X, W / np.sqrt(72), B))


@pytest.fixture
def runs(monkeypatch):
    """One entry for every time that an interpreted kernel ran."""
    seen, run_interpreted = [], mosaic.run_interpreted

    def noted(f, *args, **kwargs):
        seen.append(tuple(a.shape for a in args))
        return run_interpreted(f, *args, **kwargs)

    monkeypatch.setattr(mosaic, "run_interpreted", noted)
    return seen


def conv(x, w, b):
    return pc.conv(x, w, b, padding=1, activation="silu")


def conv_transpose(x, w, b):
    return pc.conv_transpose(x, w, b, padding=1, activation="silu")


def conv_layer(x, w, b):
    return jax.vmap(layer(pc.Conv2d, w, b, padding=1, activation="silu"))(x)


def conv_transpose_layer(x, w, b):
    return jax.vmap(layer(pc.ConvTranspose2d, w, b, padding=1, activation="silu"))(x)


ENTRIES = [conv, conv_transpose, conv_layer, conv_transpose_layer]


def total(f):
    return lambda *at: jnp.sum(jnp.sin(f(*at).astype(jnp.float32)))


def chain(f, x, w, b):
    return f(f(x, w, b), w, b)


def independent(f, x, w, b):
    return [f((i + 1) * x, w, b) for i in range(4)]


def scan(f, x, w, b):
    return lax.scan(lambda h, _: (f(h, w, b), None), x, None, length=2)[0]


def grad_of_scan(f, x, w, b):
    return jax.grad(lambda x: total(functools.partial(scan, f))(x, w, b))(x)


def cond(f, x, w, b):
    return lax.cond(x.sum() < 1e9, f, lambda *at: 0 * f(*at), x, w, b)


def loop(f, x, w, b):
    return lax.fori_loop(0, 2, lambda i, h: f(h, w, b), x)


def vmap_x(f, x, w, b):
    return jax.vmap(lambda x: f(x, w, b))(jnp.stack([x, 2 * x]))


def vmap_w(f, x, w, b):
    """Two models share x: their output channels side by side."""
    return jax.vmap(lambda w, b: f(x, w, b))(jnp.stack([w, 2 * w]), jnp.stack([b, b]))


def ensemble(f, x, w, b):
    """Two models, each with images of its own: one launch for both."""
    return jax.vmap(f)(jnp.stack([x, 2 * x]), jnp.stack([w, 2 * w]), jnp.stack([b, b]))


def grad(f, x, w, b):
    return jax.grad(total(f), (0, 1, 2))(x, w, b)


def frozen(f, x, w, b):
    return jax.grad(total(f))(x, w, b)


def first_layer(f, x, w, b):
    return jax.grad(total(f), (1, 2))(x, w, b)


def checkpoint(f, x, w, b):
    return jax.grad(jax.checkpoint(total(f)), (0, 1, 2))(x, w, b)


def per_example(f, x, w, b):
    return jax.vmap(lambda x: jax.grad(total(f), (0, 1, 2))(x[None], w, b))(x)


def of_ensemble(f, x, w, b):
    return jax.vmap(functools.partial(grad, f))(jnp.stack([x, 2 * x]), jnp.stack([w, 2 * w]), jnp.stack([b, b]))


def hvp(f, x, w, b):
    return jax.jvp(lambda x: jax.grad(total(f))(x, w, b), (x,), (x,))[1]


def jvp(f, x, w, b):
    return jax.jvp(lambda x: f(x, w, b), (x,), (x,))


def apply(f, x, w, b):
    return f(x, w, b)


def leaves(tree):
    return [np.asarray(t, np.float32) for t in jax.tree.leaves(tree)]


def check(f, implementation=PREFERENCE, jit=True, ours=None):
    """f, or ours in its place, under an implementation. Against float32, it may be twice as wrong as XLA is in bfloat16."""
    with pc.implementation("xla"):
        exact = leaves(jax.jit(lambda *at: f(*at))(*[t.astype(jnp.float32) for t in BF16]))
        stock = leaves(jax.jit(lambda *at: f(*at))(*BF16))
    ours = ours or (jax.jit(lambda *at: f(*at)) if jit else f)
    with pc.implementation(implementation):
        found = leaves(ours(*BF16))
    for one, other, truth in zip(found, stock, exact, strict=True):
        assert one.shape == truth.shape
        rounding = float(jnp.finfo(jnp.bfloat16).eps) / 2
        for size in (np.linalg.norm, lambda t: np.abs(t).max()):
            assert size(one - truth) <= 2 * size(other - truth) + rounding * size(truth)


@pytest.mark.parametrize("entry", ENTRIES)
def test_entries(entry, runs):
    check(entry)
    assert len(runs) == 1


@pytest.mark.parametrize("entry", [conv, conv_transpose_layer])
def test_eager(entry, runs):
    check(entry, jit=False)
    assert len(runs) == 1


TRANSFORMED = {  # how many kernels run: of a weight gradient one, which sums the bias gradient, too
    chain: 2, independent: 4, scan: 2, grad_of_scan: 4, cond: 1, loop: 2, vmap_x: 1, vmap_w: 1,
    ensemble: 1, grad: 3, frozen: 2, first_layer: 2, checkpoint: 3,
}  # fmt: skip


@pytest.mark.parametrize("transformed", TRANSFORMED)
@pytest.mark.parametrize("entry", [conv, pytest.param(conv_layer, marks=pytest.mark.extended)])
def test_transformed(entry, transformed, runs):
    check(functools.partial(transformed, entry))
    assert len(runs) == TRANSFORMED[transformed]


@pytest.mark.parametrize(
    ("transformed", "count"),
    [
        (jvp, 2),
        (hvp, 3),
        (per_example, 3),
        pytest.param(of_ensemble, 3, marks=pytest.mark.extended),
        pytest.param(grad, 3, marks=pytest.mark.extended),
    ],
)
def test_transformed_layer(transformed, count, runs):
    check(functools.partial(transformed, conv_layer))
    assert len(runs) == count


MESHES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


@pytest.mark.parametrize("transformed", [pytest.param(apply, marks=pytest.mark.extended), grad])
@pytest.mark.parametrize("mesh_type", ["auto", pytest.param("explicit", marks=pytest.mark.extended)])
def test_two_devices(mesh_type, transformed, runs):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(MESHES[mesh_type],))
    f = functools.partial(transformed, conv_layer)
    specs = (P("d"), P(), P())
    place = lambda *at: [jax.device_put(np.asarray(t), NamedSharding(mesh, s)) for t, s in zip(at, specs, strict=True)]

    def placed(*at):
        with jax.set_mesh(mesh) if mesh_type == "explicit" else contextlib.nullcontext():
            return jax.jit(f)(*place(*at))

    check(f, ours=placed)
    blocks = 2 if mesh_type == "explicit" else 1  # XLA gathers for the interpreter's calls on an automatic mesh
    assert len(runs) == blocks * (3 if transformed is grad else 1)
    assert all(shapes[0][0] == 2 // blocks for shapes in runs)


@pytest.mark.parametrize("check_vma", [True, pytest.param(False, marks=pytest.mark.extended)])
def test_shard_map(check_vma, runs):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    summed = lambda *at: lax.psum(total(conv_layer)(*at), "d")
    specs = {"mesh": mesh, "in_specs": (P("d"), P(), P()), "out_specs": P(), "check_vma": check_vma}
    sharded = jax.jit(jax.grad(jax.shard_map(summed, **specs), (0, 1, 2)))
    check(functools.partial(grad, conv_layer), ours=sharded)
    assert len(runs) == 6  # forward, input and weight gradient, on either device
    assert all(shapes[0][0] == 1 for shapes in runs)  # half the batch each


def test_strict_raises_for_the_product_without_a_kernel_with_every_reason(runs):
    """A weight gradient has none if its convolution is strided in one dimension and transposed in the other."""
    both = lambda x, w, b: pc.lax.conv_general_dilated(x, w, (2, 1), ((1, 1), (1, 1)), lhs_dilation=(1, 2))
    with pc.implementation("interpret"):
        jax.jit(jax.grad(total(both)))(*BF16)  # the input gradient has a kernel
        assert len(runs) == 2
        with pytest.raises(pc.UnsupportedError, match="cannot serve the wgrad product") as caught:
            jax.grad(total(both), 1)(*BF16)
    assert caught.value.reasons == ("strides and input dilations leave several phases of x and of its cotangent",)


def test_strict_lists_all_reasons():
    x, w = jnp.ones((1, 6, 7)), jnp.ones((18, 6, 65))
    with pytest.raises(pc.UnsupportedError) as caught:
        pc.conv(x, w, padding=32, precision="highest", implementation="interpret")
    assert len(caught.value.reasons) == 2
    for part in ("float32 is multiplied as TF32", "at most 64 a side"):
        assert any(part in reason for reason in caught.value.reasons)
        assert part in str(caught.value)


def test_mosaic_falls_to_the_interpreter_on_a_cpu(runs):
    check(conv, ("mosaic", "interpret"))
    assert len(runs) == 1


def test_strict_mosaic_raises_on_a_cpu():
    with pytest.raises(pc.UnsupportedError, match="Hopper"):
        pc.conv(*BF16, implementation="mosaic")


def test_unserved_products_fall_to_xla(runs):
    x, w = jnp.ones((2, 8, 70), jnp.bfloat16), jnp.ones((8, 8, 65), jnp.bfloat16)  # more taps than any family takes
    f = lambda x, w: pc.conv(x, w, implementation=PREFERENCE)
    f(x, w)
    assert not runs
    assert [p.implementation for p in pc.explain(f, x, w)] == ["xla"]


def test_a_wrong_kernel_shows(monkeypatch):
    """The bound of these tests is no formality."""
    monkeypatch.setattr(mosaic, "run_interpreted", lambda f, *args, **kwargs: [1.05 * r for r in f(*args)])
    with pytest.raises(AssertionError):
        check(conv)

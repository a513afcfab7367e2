"""`conv` and `conv_transpose` against lax and the layers: layouts, batch axes, paddings, epilogues, dtypes, gradients."""

import functools
import pickle
import random
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import jet

import pallas_conv as pc
from pallas_conv.activations import ACTIVATIONS, applied


def normal(*shape: int, dtype: Any = "float32", seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape), dtype)


def assert_close(got: Any, want: Any, eps: float | None = None) -> None:
    """Assert that two results differ by a few roundings of the largest element at most."""
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    eps = float(jnp.finfo(got.dtype).eps) if eps is None else eps
    got, want = np.asarray(got).astype(np.float64), np.asarray(want).astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=0, atol=16 * eps * max(1, np.abs(want).max(initial=0)))


def last(t: jax.Array, ndim: int) -> jax.Array:
    """Channels first -> channels last, of x or y."""
    return jnp.moveaxis(t, -ndim - 1, -1)


def weight_last(w: jax.Array) -> jax.Array:
    return jnp.moveaxis(w, (0, 1), (-1, -2))


# ---------------------------------------------------------------- geometry

CONVS: dict[str, dict[str, Any]] = {
    "plain": {},
    "int": {"padding": 1, "stride": 2},
    "ints": {"padding": (2, 1), "dilation": (1, 2)},
    "pairs": {"padding": ((0, 2), (3, -1)), "stride": (2, 1)},
    "same": {"padding": "same", "stride": (2, 3)},
    "same_lower": {"padding": "SAME_LOWER", "dilation": 2},
    "valid": {"padding": "VALID", "groups": 2},
    "reflect": {"padding": (2, 3), "padding_mode": "reflect"},
    "replicate": {"padding": "SAME", "padding_mode": "REPLICATE", "stride": 2},
    "circular": {"padding": ((9, 1), (0, 2)), "padding_mode": "CIRCULAR", "groups": 2},
}
TRANSPOSED: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"stride": 2, "padding": 1, "output_padding": 1},
    "pairs": {"stride": (3, 2), "padding": ((0, 2), (3, -1)), "output_padding": (2, 0), "dilation": (2, 1)},
    "same": {"stride": (2, 3), "padding": "SAME", "groups": 2},
    "same_lower": {"stride": 2, "padding": "same_lower", "output_padding": 1},
    "valid": {"stride": 2, "padding": "VALID", "output_padding": (1, 0)},
    "circular": {"stride": 2, "padding": "SAME", "padding_mode": "CIRCULAR"},
}


@pytest.mark.parametrize(
    ("f", "layer", "name"),
    [(pc.conv, "Conv2d", n) for n in CONVS] + [(pc.conv_transpose, "ConvTranspose2d", n) for n in TRANSPOSED],
)
def test_functions_are_the_layers_in_either_layout(f, layer, name):
    kwargs = (CONVS if layer == "Conv2d" else TRANSPOSED)[name]
    stock = getattr(eqx.nn, layer)(4, 6, (3, 4), **kwargs, key=jax.random.key(0))
    w, b, x = stock.weight, stock.bias.ravel(), normal(2, 4, 8, 9)

    @jax.jit
    def run(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        channels_last = f(last(x, 2), weight_last(w), b, layout="channels_last", **kwargs)
        return jax.vmap(stock)(x), f(x, w, b, **kwargs), channels_last

    want, first, second = run(x)
    assert_close(first, want)
    assert_close(second, last(want, 2))


@pytest.mark.parametrize("batch", [(), (3,), (2, 0), (2, 1, 3)])
@pytest.mark.parametrize("f", [pc.conv, pc.conv_transpose])
def test_any_number_of_batch_axes(f, batch):
    x, w, b = normal(*batch, 3, 7), normal(4, 3, 3), normal(4)
    y = f(x, w, b, stride=2, padding=1)
    flat = f(x.reshape(-1, 3, 7), w, b, stride=2, padding=1)
    assert_close(y, flat.reshape(*batch, *flat.shape[1:]))
    y_last = f(last(x, 1), weight_last(w), b, stride=2, padding=1, layout="channels_last")
    assert_close(y_last, last(y, 1))


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_causal(stride, dilation):
    """All of the padding comes before: output o is no function of what comes after input o * stride."""
    x, w = normal(2, 20), normal(3, 2, 3)
    run = functools.partial(pc.conv, w=w, stride=stride, dilation=dilation, padding="causal")
    want = lax.conv_general_dilated(x[None], w, (stride,), [(2 * dilation, 0)], rhs_dilation=(dilation,))[0]
    assert_close(run(x), want)
    sees = np.asarray(jnp.abs(jax.jacobian(lambda x: run(x).sum(0))(x)).sum(1) > 0)  # (outputs, inputs)
    for o, row in enumerate(sees):
        assert set(np.flatnonzero(row)) == {i for t in range(3) if (i := o * stride - t * dilation) >= 0}


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 2)])
def test_causal_transposed(stride, dilation):
    """Causal itself, not the transpose of a causal convolution: output o sees inputs i with i * stride <= o."""
    x, w = normal(2, 6), normal(3, 2, 3)
    run = functools.partial(pc.conv_transpose, w=w, stride=stride, dilation=dilation, padding="CAUSAL")
    sees = np.asarray(jnp.abs(jax.jacobian(lambda x: run(x).sum(0))(x)).sum(1) > 0)
    assert len(sees) == 5 * stride + 1
    for o, row in enumerate(sees):
        assert set(np.flatnonzero(row)) == {i for i in range(6) if o - i * stride in (0, dilation, 2 * dilation)}


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(n, marks=pytest.mark.extended) for n in range(6, 12))])
def test_transpose_weight_gives_the_linear_transpose(seed, layout):
    """<y, conv(x, w)> == <conv_transpose(y, transposed w), x>, where the shapes come back, by output_padding."""
    rng = random.Random(zlib.crc32(f"transpose {seed}".encode()))
    ndim, groups = rng.choice((1, 2, 3)), rng.choice((1, 2, 3))
    c, o = groups * rng.randint(1, 3), groups * rng.randint(1, 3)
    ints = lambda lo, hi: tuple(rng.randint(lo, hi) for _ in range(ndim))
    kernel, stride, dilation, size = ints(1, 3), ints(1, 3), ints(1, 2), ints(5, 8)
    padding = tuple((rng.randint(-1, 2), rng.randint(-1, 2)) for _ in range(ndim))
    reach = [n + sum(p) - d * (k - 1) - 1 for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)]
    output_padding = tuple(r % s for r, s in zip(reach, stride, strict=True))
    how = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups, "layout": layout}
    with jax.enable_x64(True):
        x, w = normal(2, c, *size, dtype=jnp.float64), normal(o, c // groups, *kernel, dtype=jnp.float64)
        if layout == "channels_last":
            x, w = last(x, ndim), weight_last(w)
        y = pc.conv(x, w, **how)
        ct = normal(*y.shape, dtype=jnp.float64, seed=1)
        back = pc.conv_transpose(ct, pc.transpose_weight(w, groups, layout), output_padding=output_padding, **how)
        assert back.shape == x.shape
        np.testing.assert_allclose(jnp.vdot(ct, y), jnp.vdot(back, x), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(back, jax.vjp(lambda x: pc.conv(x, w, **how), x)[1](ct)[0], rtol=1e-12, atol=1e-12)
        assert_close(pc.transpose_weight(pc.transpose_weight(w, groups, layout), groups, layout), w)


# ---------------------------------------------------------------- epilogue and dtypes


def loss(f: Any, *args: Any) -> jax.Array:
    y = f(*args).astype(jnp.float32)
    return jnp.vdot(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)), y.ravel())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("f", "bias"), [(pc.conv, True), (pc.conv_transpose, False)])
def test_activation(f, bias, activation):
    x, w, b = normal(2, 4, 7, 6), normal(3, 4, 3, 3), normal(3) if bias else None

    @jax.jit
    def run(x: jax.Array, w: jax.Array, b: jax.Array | None) -> tuple[Any, Any]:
        fused = lambda *args: f(*args, stride=2, padding=1, activation=activation)
        apart = lambda *args: ACTIVATIONS[activation].f(f(*args, stride=2, padding=1))
        return tuple((g(x, w, b), jax.grad(functools.partial(loss, g), (0, 1, 2))(x, w, b)) for g in (fused, apart))

    fused, apart = map(jax.tree.leaves, run(x, w, b))
    for got, want in zip(fused, apart, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("f", [pc.conv, pc.conv_transpose])
def test_out_dtype_keeps_wide_sums(f):
    """bfloat16 operands, float32 result: on a CPU nothing is rounded on the way, bias and activation included."""
    x, w, b = normal(4, 9, 9, dtype="bfloat16"), normal(8, 4, 3, 3, dtype="bfloat16"), normal(8)
    got = f(x, w, b, out_dtype=jnp.float32, activation="silu")
    assert got.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(t).astype(np.float64)) for t in (x, w, b)]
        want = np.asarray(f(*wide, activation="silu"))
    assert np.abs(np.asarray(got) - want).max() < 2**-20 * np.abs(want).max()
    narrow = f(x, w, b, compute_dtype=jnp.bfloat16)
    assert narrow.dtype == jnp.bfloat16


def test_compute_dtype():
    """Operands are cast, whatever they are; the result has that dtype, or out_dtype; gradients have the operands'."""
    x, w, b = normal(2, 4, 9), normal(3, 4, 3, dtype="float16"), normal(3, dtype="bfloat16")
    run = functools.partial(pc.conv, compute_dtype=jnp.bfloat16)
    cast = lambda t: t.astype(jnp.bfloat16)
    assert_close(run(x, w, b), pc.conv(cast(x), cast(w), b))
    assert run(x, w, b, out_dtype=jnp.float32).dtype == jnp.float32
    grads = jax.grad(functools.partial(loss, run), (0, 1, 2))(x, w, b)
    assert [g.dtype for g in grads] == [jnp.float32, jnp.float16, jnp.bfloat16]
    want = jax.grad(functools.partial(loss, lambda *a: pc.conv(*a, compute_dtype=jnp.float32)), (0, 1, 2))(x, w, b)
    for got, exact in zip(grads, want, strict=True):
        assert_close(got, exact, eps=2**-8)


@pytest.mark.parametrize("name", ["compute_dtype", "out_dtype"])
def test_64_bits_that_jax_is_not_set_to_are_not_dropped_in_silence(name):
    with pytest.warns(UserWarning, match=f"{name} float64 is truncated to float32: for 64 bits, set jax_enable_x64"):
        assert pc.conv(normal(2, 4, 9), normal(3, 4, 3), **{name: jnp.float64}).dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("f", [pc.conv, pc.conv_transpose])
def test_result_dtype(f, dtype):
    x, w = normal(2, 4, 9, dtype=dtype), normal(3, 4, 3, dtype=dtype)
    assert f(x, w).dtype == f(x, w, normal(3, dtype=dtype)).dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("given", ["highest", "HIGHEST", lax.Precision.HIGHEST, ("highest", "highest"), "float32"])
def test_precision(given):
    x, w = jax.ShapeDtypeStruct((4, 9), jnp.float32), jax.ShapeDtypeStruct((3, 4, 3), jnp.float32)
    run = functools.partial(pc.conv, precision=given)
    backward = jax.grad(functools.partial(loss, run), (0, 1))
    assert jax.jit(run).lower(x, w).as_text().count("HIGHEST") == 2
    assert jax.jit(backward).lower(x, w).as_text().count("HIGHEST") == 4  # the forward product is dead
    with jax.default_matmul_precision("highest"):  # the argument wins
        assert "HIGHEST" not in jax.jit(functools.partial(pc.conv, precision="default")).lower(x, w).as_text()


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("activation", [None, pytest.param("relu", marks=pytest.mark.extended), "gelu"])
@pytest.mark.parametrize("name", ["same", "pairs", "valid", "circular"])
@pytest.mark.parametrize("f", [pc.conv, pc.conv_transpose])
def test_gradients_against_float64(f, name, activation):
    """Gradients by x, w and b are those of lax's own program in float64, up to a few roundings of float32."""
    kwargs = (CONVS if f is pc.conv else TRANSPOSED)[name]
    layer = eqx.nn.Conv2d if f is pc.conv else eqx.nn.ConvTranspose2d
    x, w, b = normal(2, 4, 7, 6), normal(6, 4 // kwargs.get("groups", 1), 3, 4), normal(6)
    got = jax.jit(jax.grad(functools.partial(loss, lambda *a: f(*a, activation=activation, **kwargs)), (0, 1, 2)))(
        x, w, b
    )
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(t), jnp.float64) for t in (x, w, b)]
        stock = layer(4, 6, (3, 4), **kwargs, key=jax.random.key(0))

        def exact(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
            net = eqx.tree_at(lambda m: (m.weight, m.bias), stock, (w, b.reshape(-1, 1, 1)))
            y = applied(activation, jax.vmap(net)(x))
            return jnp.vdot(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).astype(y.dtype), y.ravel())

        want = jax.jit(jax.grad(exact, (0, 1, 2)))(*wide)
    for ours, reference in zip(got, want, strict=True):
        assert ours.dtype == jnp.float32
        scale = max(1, np.abs(np.asarray(reference)).max())  # the largest term of a sum is about 1
        assert np.abs(np.asarray(ours) - np.asarray(reference)).max() < 16 * 2**-23 * scale


def test_a_backward_pass_runs_the_others_product():
    """conv's input gradient is conv_transpose's forward geometry, and the other way round; each product runs once."""
    x, w, b = normal(2, 4, 8, 8), normal(6, 4, 3, 3), normal(6)
    for f, dilated in ((pc.conv, False), (pc.conv_transpose, True)):
        run = lambda x, w, b, f=f: f(x, w, b, stride=2, padding=1, activation="relu").sum()
        forward = pc.explain(run, x, w, b, device="cpu")
        assert [p.product.role for p in forward] == ["fprop"]
        both = pc.explain(jax.value_and_grad(run, (0, 1, 2)), x, w, b, device="cpu")
        assert sorted(p.product.role for p in both) == ["dgrad", "fprop", "wgrad"]
        spec = {p.product.role: p.product.spec for p in both}
        assert spec["dgrad"] == spec["wgrad"] == spec["fprop"]
        assert (spec["dgrad"].input_dilation, spec["dgrad"].strides) == (
            ((2, 2), (1, 1)) if dilated else ((1, 1), (2, 2))
        )
        only_w = pc.explain(jax.grad(run, 1), x, w, b, device="cpu")  # dead code: no dgrad
        assert sorted(p.product.role for p in only_w) == ["fprop", "wgrad"]
    # As programs: dgrad of conv is lax's convolution of the dilated cotangent, as conv_transpose's forward is.
    y = pc.conv(x, w, stride=2, padding=1)
    dgrad = jax.vjp(lambda x: pc.conv(x, w, stride=2, padding=1), x)[1](y)[0]
    assert_close(dgrad, pc.conv_transpose(y, pc.transpose_weight(w), stride=2, padding=1, output_padding=1))


def test_forward_mode_channels_last():
    """A Taylor series in all operands, through the changes of layout; tests/transforms has the rest, channels first."""
    at = normal(2, 6, 2), normal(3, 2, 4), normal(4), normal(2, 6, 4)
    dims = ("NWC", "WIO", "NWC")

    def reference(x: jax.Array, w: jax.Array, b: jax.Array, r: jax.Array) -> jax.Array:
        return jnp.tanh(lax.conv_general_dilated(x, w, (1,), "SAME", dimension_numbers=dims) + b[None, None] + r)

    def ours(x: jax.Array, w: jax.Array, b: jax.Array, r: jax.Array) -> jax.Array:
        return pc.conv(x, w, b, residual=r, padding="SAME", activation="tanh", layout="channels_last")

    along = [[jnp.cos(t), jnp.sin(t)] for t in at]
    got, want = (jax.tree.leaves(jax.jit(functools.partial(jet.jet, f))(at, along)) for f in (ours, reference))
    assert len(got) == len(want) == 3
    for term, expected in zip(got, want, strict=True):
        assert_close(term, expected)


def test_padding_of_mixed_sign():
    """Some versions of XLA read out of bounds here on a CPU; crops may even be longer than the axis."""
    w = normal(3, 4, 3, seed=1)
    for length, pads in ((16, (-8, 8)), (5, (-7, 9)), (9, (-1, 2))):
        x = normal(4, 4, length)
        padded = lax.pad(x, jnp.float32(0), [(0, 0, 0), (0, 0, 0), (*pads, 0)])
        want = lax.conv_general_dilated(padded, w, (1,), "VALID")
        got = jax.jit(lambda x, w, pads=pads: pc.conv(x, w, padding=(pads,)))(x, w)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        (batch,) = jax.export.symbolic_shape("batch")
        shape = jax.ShapeDtypeStruct((batch, 4, length), jnp.float32)
        program = jax.export.export(jax.jit(lambda x, w, pads=pads: pc.conv(x, w, padding=(pads,))))(shape, w)
        np.testing.assert_allclose(program.call(x, w), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [(name, "int32") for name in ACTIVATIONS if name != "relu"] + [(n, "complex64") for n in ("gelu", "leaky_relu")],
)
def test_an_activation_without_values_in_the_dtype_is_refused(activation, dtype):
    x, w = jnp.ones((1, 2, 5), dtype), jnp.ones((3, 2, 3), dtype)
    with pytest.raises(TypeError, match=rf"{activation}.*{dtype}.*Cast"):
        pc.conv(x, w, activation=activation)
    with pytest.raises(TypeError, match=rf"{activation}.*{dtype}.*Cast"):
        pc.conv_transpose(x, w, activation=activation)


def test_relu_of_integers_and_tanh_of_complex_numbers():
    x = jnp.arange(-4, 6).reshape(1, 2, 5)
    w = jnp.ones((3, 2, 3), x.dtype).at[0].set(-1)
    want = lax.conv_general_dilated(x, w, (1,), "VALID")
    assert (pc.conv(x, w, activation="relu") == jnp.maximum(want, 0)).all()
    x, w = x.astype("complex64") * 0.1j, w.astype("complex64")
    want = jnp.tanh(lax.conv_general_dilated(x, w, (1,), "VALID"))
    np.testing.assert_allclose(pc.conv(x, w, activation="tanh"), want, rtol=1e-5)


@jax.numpy_dtype_promotion("standard")
def test_integers_with_a_float_bias_or_residual():
    x, w = jnp.arange(20).reshape(1, 2, 10), jnp.ones((3, 2, 3), int)
    want = lax.conv_general_dilated(x, w, (1,), "VALID") + 0.5
    np.testing.assert_array_equal(pc.conv(x, w, jnp.full(3, 0.5)), want)
    residual = jnp.full(want.shape, 0.5)
    np.testing.assert_array_equal(pc.conv(x, w, residual=residual, out_dtype="float32"), want)
    np.testing.assert_allclose(pc.conv(x, w, jnp.full(3, 0.5), activation="tanh"), jnp.tanh(want), rtol=1e-6)


def test_an_unsupported_error_survives_pickling():
    error = pc.UnsupportedError("no implementation", ["one reason", "another"])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.what, again.reasons) == (str(error), error.what, error.reasons)

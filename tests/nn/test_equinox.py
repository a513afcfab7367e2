"""The layers as functions, against the installed equinox: results and gradients of every geometry, dtype and input."""

import random
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import pallas_conv as pc
from tests.nn.layers import (
    DTYPES,
    KEY,
    arrays,
    assert_close,
    assert_identical,
    assert_same_function,
    assert_same_layer,
    layers,
    normal,
    small,
)

T1, T2 = "ConvTranspose1d", "ConvTranspose2d"
GEOMETRIES: dict[str, tuple[str, tuple, dict[str, Any], tuple[int, ...]]] = {
    "plain": ("Conv2d", (4, 6, 3), {}, (8, 9)),
    "1d strided": ("Conv1d", (3, 5, 4), {"stride": 2, "padding": 1}, (17,)),
    "3d": ("Conv3d", (2, 4, (3, 2, 1)), {"stride": (1, 2, 1), "padding": (1, 0, 2)}, (5, 6, 4)),
    "4d": ("Conv", (4, 2, 3, 2), {"padding": 1}, (3, 2, 3, 2)),
    "0d": ("Conv", (0, 4, 6, ()), {}, ()),
    "no bias": ("Conv2d", (4, 6, 3), {"use_bias": False, "padding": 1}, (8, 9)),
    "bool-like bias": ("Conv2d", (4, 6, 3), {"use_bias": 0}, (8, 9)),
    "same, any case": ("Conv2d", (4, 6, (4, 3)), {"padding": "sAmE", "stride": 2}, (7, 8)),
    "same_lower": ("Conv2d", (4, 6, 4), {"padding": "same_lower", "dilation": 2}, (7, 8)),
    "valid": ("Conv2d", (4, 6, 3), {"padding": "valid"}, (7, 8)),
    "same, stride beyond the window": ("Conv2d", (4, 6, 2), {"padding": "SAME", "stride": (5, 3)}, (9, 11)),
    "pairs": ("Conv2d", (4, 6, 3), {"padding": ((0, 2), (3, 1))}, (6, 5)),
    "lists": ("Conv2d", [4, 6, [3, 2]], {"padding": [[0, 2], [3, 1]], "stride": [2, 1], "dilation": [1, 2]}, (6, 5)),
    "range": ("Conv2d", (4, 6, range(2, 4)), {}, (6, 5)),
    "negative padding": ("Conv2d", (4, 6, 2), {"padding": ((-1, 2), (-2, -1))}, (6, 7)),
    "all cropped": ("Conv2d", (4, 6, 2), {"padding": -3}, (6, 7)),
    "dilated": ("Conv2d", (4, 6, (3, 2)), {"dilation": (2, 3), "padding": 2}, (7, 8)),
    "groups": ("Conv2d", (4, 6, 3), {"groups": 2, "padding": 1, "stride": 2}, (7, 8)),
    "depthwise multiplier": ("Conv2d", (4, 12, 3), {"groups": 4, "padding": 1}, (7, 8)),
    "larger than the input": ("Conv2d", (4, 6, 5), {}, (3, 9)),
    "size 1": ("Conv2d", (1, 1, 1), {}, (1, 1)),
    "empty input": ("Conv2d", (4, 6, 3), {"padding": 2}, (0, 4)),
    "no output channels": ("Conv2d", (4, 0, 3), {}, (5, 5)),
    "reflect": ("Conv2d", (4, 6, 3), {"padding": ((2, 1), (0, 3)), "padding_mode": "reflect"}, (6, 5)),
    "reflect beyond the input": ("Conv1d", (2, 3, 3), {"padding": 9, "padding_mode": "REFLECT"}, (4,)),
    "replicate": ("Conv2d", (4, 6, 3), {"padding": "SAME", "stride": 2, "padding_mode": "Replicate"}, (6, 5)),
    "circular": ("Conv2d", (4, 6, 4), {"padding": "SAME_LOWER", "padding_mode": "CIRCULAR", "dilation": 2}, (6, 5)),
    "circular beyond the input": ("Conv1d", (2, 3, 3), {"padding": (7,), "padding_mode": "circular"}, (3,)),
    "transposed": (T2, (4, 6, 3), {}, (5, 4)),
    "transposed, strided": (T2, (4, 6, 4), {"stride": 2, "padding": 1}, (5, 4)),
    "transposed 1d": (T1, (3, 5, 5), {"stride": 3, "output_padding": 2, "padding": ((1, 3),)}, (6,)),
    "transposed 3d": ("ConvTranspose3d", (2, 3, 2), {"stride": (2, 1, 3), "padding": ((1, 0), (0, 1), (1, 1))}, (3, 4, 2)),
    "transposed same": (T2, (4, 6, (3, 4)), {"stride": 2, "padding": "same"}, (5, 4)),
    "transposed same_lower": (T2, (4, 6, 4), {"stride": 3, "padding": "SAME_LOWER"}, (5, 4)),
    "transposed same, output_padding": (T2, (4, 6, 3), {"stride": 2, "padding": "SAME", "output_padding": 1}, (5, 4)),
    "transposed same, window below stride": (
        T2, (4, 6, 2), {"stride": (5, 3), "padding": "SAME", "output_padding": (1, 0)}, (4, 3)),
    "transposed valid": (T2, (4, 6, 3), {"stride": 2, "padding": "valid", "output_padding": 1}, (5, 4)),
    "transposed, dilated": (T2, (4, 6, 3), {"stride": 2, "dilation": (2, 3), "padding": ((5, 1), (2, 0))}, (5, 4)),
    "transposed, groups": (T2, (4, 6, 3), {"stride": 2, "groups": 2, "padding": 1, "output_padding": 1}, (5, 4)),
    "transposed, negative padding": (T2, (4, 6, 3), {"stride": 2, "padding": -2}, (5, 4)),
    "transposed, cropping": (T2, (4, 6, 3), {"stride": 2, "padding": 5}, (5, 7)),
    "transposed circular": (T2, (4, 6, 5), {"stride": 2, "padding": "SAME", "padding_mode": "circular"}, (5, 4)),
    "transposed circular, dilated": (
        T1, (2, 3, 4), {"stride": 3, "dilation": 3, "padding": "SAME_LOWER", "padding_mode": "CIRCULAR"}, (4,)),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if i % 2 else pytest.param(n, marks=pytest.mark.extended) for i, n in enumerate(GEOMETRIES)]
)
def test_geometry(name):
    cls, args, kwargs, spatial = GEOMETRIES[name]
    stock, ours = layers(cls, *args, **kwargs)
    assert_same_layer(stock, ours, normal(ours.in_channels, *spatial))


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_dtypes(name, dtype):
    stock, ours = small(name, stride=2, padding=1, dtype=jnp.dtype(dtype))
    assert_same_layer(stock, ours, normal(4, 8, 9, dtype=dtype))


def test_integers():
    """Quantised weights: no gradient, but a result, as in stock."""
    x = jr.randint(jr.key(1), (4, 6, 6), -5, 5, jnp.int8)
    for dtype in (jnp.int8, jnp.int32):
        new = jr.randint(jr.key(2), (6, 4, 3, 3), -5, 5, jnp.int8), jr.randint(jr.key(3), (6, 1, 1), -5, 5, dtype)
        stock, ours = (eqx.tree_at(lambda m: (m.weight, m.bias), layer, new) for layer in small("Conv2d"))
        with jax.numpy_dtype_promotion("standard"):
            assert_identical(ours(x), stock(x))


@jax.numpy_dtype_promotion("standard")
def test_integers_with_a_bias_that_is_none():
    """The sum is promoted, not the bias truncated."""
    for bias in (jnp.full((6, 1, 1), 0.5), jnp.linspace(0, 1, 8).reshape(1, 1, 8)):
        stock, ours = (
            eqx.tree_at(lambda m: (m.weight, m.bias), layer, (jnp.ones((6, 4, 3, 3), "int32"), bias))
            for layer in small("Conv2d", padding=1)
        )
        x = jnp.arange(4 * 64, dtype="int32").reshape(4, 8, 8)
        assert_close(ours(x), stock(x))
        assert (ours(x) % 1).any()


def test_integers_of_groups():
    """Large enough to wrap around, as in stock."""
    settings = {"groups": 8, "padding": 2, "use_bias": False, "key": jr.key(0)}
    for dtype in (jnp.int8, jnp.int32):
        x, w = jr.randint(jr.key(1), (8, 20, 20), -99, 99, dtype), jr.randint(jr.key(2), (8, 1, 5, 5), -99, 99, dtype)
        stock, ours = (
            eqx.tree_at(lambda m: m.weight, cls(8, 8, 5, **settings), w) for cls in (eqx.nn.Conv2d, pc.Conv2d)
        )
        assert_identical(ours(x), stock(x))


def test_a_weight_of_numpy():
    """A NumPy weight gets the dtype that JAX has for it."""
    stock, ours = (eqx.tree_at(lambda m: m.weight, layer, np.ones((6, 4, 3, 3))) for layer in small("Conv2d"))
    assert_same_function(stock, ours, normal(4, 8, 8))


def test_a_wider_bias_keeps_its_precision():
    """The gradient of a float64 bias is that of its float64 results; that of a complex bias, complex."""
    for dtype in ("float64", "complex64"):
        with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
            bias = jnp.asarray(np.random.default_rng(0).standard_normal((6, 1, 1)), dtype)
            x = normal(4, 8, 8).astype(jnp.float32)
            wide = 1 if dtype == "float64" else 1 + 2j

            def loss(p, layer, x=x, wide=wide):
                return jnp.sum(jnp.abs(wide + eqx.tree_at(lambda m: (m.weight, m.bias), layer, p)(x)) ** 2)

            stock, ours = (jax.grad(loss)((layer.weight.astype(jnp.float32), bias), layer) for layer in small("Conv2d"))
            np.testing.assert_allclose(ours[1], stock[1], rtol=1e-13 if dtype == "float64" else 1e-5)
            np.testing.assert_allclose(ours[0], stock[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((6, 8, 8), "float32"), ((1, 1, 8), "float32"), ((1, 8, 1), "float16"), ((1, 8, 8), "complex64")],
)
@jax.numpy_dtype_promotion("standard")
def test_a_bias_that_varies_over_positions(shape, dtype, residual):
    """A bias may vary over positions, as after surgery on a model, and be of another dtype, too."""
    for name in ("Conv2d", "ConvTranspose2d"):
        stock, ours = (
            eqx.tree_at(lambda m: m.bias, layer, normal(*shape, dtype=dtype, seed=1))
            for layer in small(name, padding=1)
        )
        x = normal(4, 8, 8)
        r = normal(6, 8, 8, dtype=jnp.result_type("float32", dtype), seed=2)
        ours_of = lambda layer, x, r=r: layer(x, residual=r) if residual else layer(x)
        stock_of = lambda layer, x, r=r: layer(x) + r if residual else layer(x)
        assert_close(ours_of(ours, x), stock_of(stock, x))
        loss = lambda layer, f, x=x: jnp.sum(jnp.abs(f(layer, x)) ** 2)
        gradients = eqx.filter_grad(loss)(ours, ours_of), eqx.filter_grad(loss)(stock, stock_of)
        for got, want in zip(*map(arrays, gradients), strict=True):
            assert_close(got, want)


@jax.numpy_dtype_promotion("standard")
def test_a_weakly_typed_input_with_a_bias_of_another_dtype():
    """The weight is strong, hence the convolution: what it is added to does not decide the dtype."""
    mask = jnp.where(jnp.ones((4, 8, 8)) > 0, 1.0, 0.0)
    assert mask.weak_type
    stock, ours = (eqx.tree_at(lambda m: m.bias, m, normal(6, 1, 1, dtype="bfloat16")) for m in small("Conv2d"))
    assert_close(ours(mask), stock(mask))


def test_bfloat16_weight_with_float32_bias():
    """The sum with the bias promotes: bfloat16 + float32 is float32."""
    stock, ours = (
        eqx.tree_at(lambda m: m.bias, layer, normal(6, 1, 1)) for layer in small("Conv2d", dtype=jnp.bfloat16)
    )
    x = normal(4, 8, 8, dtype=jnp.bfloat16)
    with pytest.raises(ValueError, match="implicit dtype promotion"):
        ours(x)
    with jax.numpy_dtype_promotion("standard"):
        assert ours(x).dtype == jnp.float32
        assert_same_function(stock, ours, x, eps=2**-8)


@pytest.mark.parametrize("batch", [(3,), (0,), (2, 3)])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_vmap(name, batch):
    stock, ours = small(name, stride=2)
    x = normal(*batch, 4, 6, 7)
    for _ in batch:
        stock, ours = jax.vmap(stock), jax.vmap(ours)
    assert_close(ours(x), stock(x))


def test_ensemble():
    keys, x = jr.split(KEY, 3), normal(4, 6, 7)
    stock, ours = (eqx.filter_vmap(lambda k, c=c: c(4, 6, 3, key=k))(keys) for c in (eqx.nn.Conv2d, pc.Conv2d))
    assert_identical(ours, stock)
    for axis, xs in ((None, x), (0, normal(3, 4, 6, 7))):
        run = eqx.filter_vmap(lambda layer, x: layer(x), in_axes=(eqx.if_array(0), axis))
        assert_close(run(ours, xs), run(stock, xs))


def test_numpy_arrays():
    """NumPy arrays may be inputs and parameters, double precision included: JAX makes them float32."""
    stock, ours = small("Conv2d")
    x = np.asarray(normal(4, 6, 7)).astype(np.float64)
    assert_close(ours(x), stock(x))
    new = np.ones((6, 4, 3, 3), np.float32), np.ones((6, 1, 1), np.float32)
    stock, ours = (eqx.tree_at(lambda m: (m.weight, m.bias), layer, new) for layer in (stock, ours))
    assert_close(ours(normal(4, 6, 7)), stock(normal(4, 6, 7)))


@pytest.mark.parametrize("padding_mode", ["ZEROS", "CIRCULAR"])
def test_replaced_weight_of_another_size(padding_mode):
    """A layer reads some sizes from its weight and others from its own fields, as equinox does."""
    pair = layers("Conv2d", 4, 6, 3, padding="SAME", padding_mode=padding_mode)
    stock, ours = (eqx.tree_at(lambda m: m.weight, layer, normal(6, 4, 5, 4)) for layer in pair)
    x = normal(4, 8, 8)
    assert_close(ours(x), stock(x))


@pytest.mark.parametrize("bias", [0.5, np.float32(2), np.ones((1, 1, 1), np.float32)], ids=["float", "scalar", "one"])
def test_replaced_bias(bias):
    stock, ours = (eqx.tree_at(lambda m: m.bias, layer, bias) for layer in small("Conv2d"))
    assert_close(ours(normal(4, 8, 8)), stock(normal(4, 8, 8)))


def lowered(f: Any, *args: Any) -> str:
    """The program of what was traced under "highest", lowered outside that context."""
    with jax.default_matmul_precision("highest"):
        traced = jax.jit(f).trace(*args)
    return traced.lower().as_text()


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_default_matmul_precision(name):
    stock, ours = small(name)
    x = normal(4, 8, 8)
    loss = lambda layer: lambda x, w: jnp.sum(eqx.tree_at(lambda m: m.weight, layer, w)(x) ** 2)
    for wrap, count in ((lambda f: f, 2), (lambda f: jax.grad(f, (0, 1)), 6)):  # both operands of each convolution
        programs = [lowered(wrap(loss(layer)), x, ours.weight) for layer in (stock, ours)]
        assert programs[0].count("HIGHEST") == programs[1].count("HIGHEST") == count
    assert "HIGHEST" not in jax.jit(lambda x: ours(x)).lower(x).as_text()


# ---------------------------------------------------------------- random layers


def random_layer(seed: int) -> tuple[str, tuple, dict[str, Any], tuple[int, ...]]:
    rng = random.Random(zlib.crc32(f"layer {seed}".encode()))
    ndim, transposed = rng.choice((1, 1, 2, 2, 2, 3)), rng.random() < 0.45
    ints = lambda lo, hi: rng.randint(lo, hi) if rng.random() < 0.3 else tuple(rng.randint(lo, hi) for _ in range(ndim))
    pairs = lambda lo, hi: tuple((rng.randint(lo, hi), rng.randint(lo, hi)) for _ in range(ndim))
    groups = rng.choice((1, 1, 2, 3))
    channels = groups * rng.randint(1, 3), groups * rng.randint(1, 3)
    kwargs: dict[str, Any] = {
        "stride": ints(1, 3),
        "dilation": ints(1, 2),
        "groups": groups,
        "use_bias": rng.random() < 0.7,
        "padding_mode": rng.choice(("ZEROS", "ZEROS", "REFLECT", "REPLICATE", "CIRCULAR")),
    }
    kwargs["padding"] = rng.choice(("SAME", "SAME_LOWER", "VALID", ints(0, 3), pairs(0, 4), pairs(-1, 2)))
    if transposed:
        stride = kwargs["stride"]
        kwargs["output_padding"] = rng.choice(
            (0, stride - 1 if isinstance(stride, int) else tuple(s - 1 for s in stride))
        )
        kwargs["padding_mode"] = rng.choice(("ZEROS", "ZEROS", "CIRCULAR"))
        if kwargs["padding_mode"] == "CIRCULAR":
            kwargs |= {"padding": rng.choice(("SAME", "SAME_LOWER")), "output_padding": 0}
    name = f"{'ConvTranspose' if transposed else 'Conv'}{ndim}d"
    spatial = tuple(rng.randint(0 if rng.random() < 0.05 else 1, 12 if ndim < 3 else 6) for _ in range(ndim))
    return name, (*channels, ints(1, 4)), kwargs, spatial


XLA_ABORTS = {63}  # compiling the weight gradient of the stock layer ends the process: XLA's simplifier, on a CPU


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=[pytest.mark.extended] * (seed >= 12)) for seed in range(400) if seed not in XLA_ABORTS],
)
def test_random_layer(seed):
    name, args, kwargs, spatial = random_layer(seed)
    stock, ours = layers(name, *args, **kwargs)
    x = normal(args[0], *spatial, seed=seed)
    try:
        expected = jax.eval_shape(stock, x)
    except ValueError:  # a crop of more than there is, a padding mode of nothing
        with pytest.raises(ValueError, match="padding"):
            jax.eval_shape(ours, x)
        return
    assert jax.eval_shape(ours, x) == expected
    assert_same_layer(stock, ours, x)

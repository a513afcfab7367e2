"""The layers against the installed equinox, which is the oracle for everything but the three extras."""

import ast
import dataclasses
import functools
import inspect
import io
import random
import re
import sys
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import pallas_conv as pc
from tests.activations import ACTIVATIONS

KEY = jr.key(7)
NAMES = [f"{kind}{n}" for kind in ("Conv", "ConvTranspose") for n in ("", "1d", "2d", "3d")]
EXTRAS = ("implementation", "activation", "compute_dtype")
DTYPES = [None, "float16", "bfloat16", "float32", "complex64"]


def layers(name: str, *args: Any, key: Any = KEY, **kwargs: Any) -> tuple[Any, Any]:
    """The stock layer and ours."""
    return getattr(eqx.nn, name)(*args, key=key, **kwargs), getattr(pc, name)(*args, key=key, **kwargs)


def small(name: str, **kwargs: Any) -> tuple[Any, Any]:
    """A pair of layers with 4 input channels, 6 output channels and a kernel of 3."""
    return layers(name, *([2] if name[-1] != "d" else []), 4, 6, 3, **kwargs)


def normal(*shape: int, dtype: Any = "float32", seed: int = 0) -> jax.Array:
    return jr.normal(jr.key(seed), shape, dtype)


def arrays(tree: Any) -> list[jax.Array]:
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def assert_identical(a: Any, b: Any) -> None:
    for ours, stock in zip(arrays(a), arrays(b), strict=True):
        assert (ours.shape, ours.dtype) == (stock.shape, stock.dtype)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(stock))


def assert_close(ours: jax.Array, reference: jax.Array, eps: float | None = None) -> None:
    """Equal up to a few roundings of the largest element: the sums are of the same terms."""
    assert (ours.shape, ours.dtype) == (reference.shape, reference.dtype)
    if not reference.size:
        return
    eps = float(jnp.finfo(reference.dtype).eps) if eps is None else eps
    wide = np.complex128 if np.iscomplexobj(reference) else np.float64
    ours, reference = np.asarray(ours).astype(wide), np.asarray(reference).astype(wide)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=16 * eps * max(1, np.abs(reference).max()))


def results(layer: Any, x: jax.Array, activation: Any = lambda y: y) -> list[jax.Array]:
    """activation(layer(x)), and the gradients of a loss whose cotangent differs everywhere: of x and the parameters."""
    params, static = eqx.partition(layer, eqx.is_inexact_array)

    def loss(x: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
        y = activation(eqx.combine(params, static)(x))
        c = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (jnp.abs(y) if jnp.iscomplexobj(y) else y).astype(jnp.float32).ravel() @ c.ravel(), y

    (dx, dparams), y = jax.grad(loss, (0, 1), has_aux=True)(x, params)
    return [y, dx, *jax.tree.leaves(dparams)]


@eqx.filter_jit
def both_results(stock: Any, ours: Any, x: jax.Array, activation: Any = lambda y: y) -> tuple[list, list]:
    return results(ours, x), results(stock, x, activation)


def assert_same_function(stock: Any, ours: Any, x: jax.Array, *activation: Any, eps: float | None = None) -> None:
    for a, b in zip(*both_results(stock, ours, x, *activation), strict=True):
        assert_close(a, b, eps)


def assert_same_layer(stock: Any, ours: Any, x: jax.Array) -> None:
    assert_identical(ours, stock)
    assert_same_function(stock, ours, x)


# ---------------------------------------------------------------- construction


@pytest.mark.parametrize(
    "dtype", [d if d in (None, "bfloat16") else pytest.param(d, marks=pytest.mark.extended) for d in DTYPES]
)
@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_bit_identical(name, dtype):
    for groups, use_bias in ((1, True), (2, False)):
        stock, ours = small(name, groups=groups, use_bias=use_bias, dtype=dtype and jnp.dtype(dtype))
        assert_identical(ours, stock)
        assert len(jax.tree.leaves(ours)) == len(jax.tree.leaves(stock)) == 1 + use_bias


@pytest.mark.parametrize("name", NAMES)
def test_float64_under_x64(name):
    with jax.enable_x64(True):
        stock, ours = small(name, padding=1)
        assert ours.weight.dtype == jnp.float64
        x = normal(4, *[6] * ours.num_spatial_dims, dtype=jnp.float64)
        assert_same_layer(stock, ours, x)


@pytest.mark.parametrize("name", NAMES)
def test_fields_and_leaves(name):
    stock, ours = small(name, stride=2, padding="same", dilation=2, groups=2)
    names = [field.name for field in dataclasses.fields(stock)]
    assert [field.name for field in dataclasses.fields(ours)] == [*names, *EXTRAS]
    for field, value in vars(stock).items():
        if not eqx.is_array(value):
            assert getattr(ours, field) == value, field
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(ours)]
    assert paths == [".weight", ".bias"]


@pytest.mark.parametrize("name", NAMES)
def test_serialisation_both_ways(name):
    other = jr.key(99)
    for source, target in (small(name), small(name)[::-1]):
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, source)
        file.seek(0)
        blank = eqx.tree_at(
            lambda layer: (layer.weight, layer.bias),
            target,
            (normal(6, 4, *[3] * (source.weight.ndim - 2)), jr.normal(other, source.bias.shape)),
        )
        assert_identical(eqx.tree_deserialise_leaves(file, blank), source)


@pytest.mark.parametrize("name", NAMES)
def test_types_and_signature(name):
    stock, ours = getattr(eqx.nn, name), getattr(pc, name)
    assert issubclass(ours, stock)
    assert issubclass(ours, pc.ConvTranspose if "Transpose" in name else pc.Conv)
    assert not issubclass(ours, pc.Conv if "Transpose" in name else pc.ConvTranspose)
    own, extended = (inspect.signature(cls).parameters for cls in (stock, ours))
    assert list(extended) == [*own, *EXTRAS]
    assert all(extended[p].kind == own[p].kind and extended[p].default == own[p].default for p in own)
    assert all(extended[e].kind is inspect.Parameter.KEYWORD_ONLY and extended[e].default is None for e in EXTRAS)
    own, extended = (list(inspect.signature(cls.__call__).parameters) for cls in (stock, ours))
    assert extended == [*own, "residual"]
    assert ours.__name__ == name
    assert all(extra in ours.__doc__ and f"- `{extra}`: " in ours.__init__.__doc__ for extra in EXTRAS)
    layer = small(name)[1]
    assert isinstance(layer, stock)
    assert re.fullmatch(rf"{name}\(.*kernel_size=\(3.*activation=None.*\)", repr(layer), re.DOTALL)


def test_positional_order():
    """ConvTranspose takes (stride, padding, output_padding), its subclasses (stride, output_padding, padding)."""
    generic = layers("ConvTranspose", 2, 3, 4, 3, 2, 0, 1, 1, 1, False, "ZEROS", jnp.bfloat16)
    for n in (1, 2, 3):
        stock, ours = layers(f"ConvTranspose{n}d", 3, 4, 3, 2, 1, "SAME", 1, 1, False, "ZEROS", jnp.bfloat16)
        assert (ours.stride, ours.output_padding, ours.padding) == ((2,) * n, (1,) * n, "SAME")
        assert_same_layer(stock, ours, normal(3, *[4] * n, dtype=jnp.bfloat16))
    assert (generic[1].stride, generic[1].padding, generic[1].output_padding) == ((2, 2), ((0, 0), (0, 0)), (1, 1))
    assert_same_layer(*generic, normal(3, 4, 4, dtype=jnp.bfloat16))
    conv = layers("Conv2d", 4, 6, (3, 2), (2, 1), ((1, 2), (0, 1)), (1, 2), 2, True, "CIRCULAR", jnp.float32)
    assert_same_layer(*conv, normal(4, 7, 8))


# ---------------------------------------------------------------- the same function

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
    """In the dtype that JAX has for it."""
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
    """As after surgery on a model; of another dtype, too."""
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
    """As inputs and as parameters, double precision included: JAX makes them float32."""
    stock, ours = small("Conv2d")
    x = np.asarray(normal(4, 6, 7)).astype(np.float64)
    assert_close(ours(x), stock(x))
    new = np.ones((6, 4, 3, 3), np.float32), np.ones((6, 1, 1), np.float32)
    stock, ours = (eqx.tree_at(lambda m: (m.weight, m.bias), layer, new) for layer in (stock, ours))
    assert_close(ours(normal(4, 6, 7)), stock(normal(4, 6, 7)))


@pytest.mark.parametrize("padding_mode", ["ZEROS", "CIRCULAR"])
def test_replaced_weight_of_another_size(padding_mode):
    """What equinox reads from the weight, and what from its own fields."""
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


# ---------------------------------------------------------------- as a pytree, in training


def test_jit_caching():
    """Equal configurations share a trace, whatever spelt them; each extra makes another."""
    traces = []

    @eqx.filter_jit
    def run(layer: Any, x: jax.Array) -> jax.Array:
        traces.append(layer)
        return layer(x)

    x = normal(4, 8, 8)
    make = functools.partial(pc.Conv2d, 4, 6, 3)
    for key, extras in (
        (0, {}),
        (1, {}),
        (2, {"implementation": ["xla"]}),
        (3, {"implementation": ("xla",)}),
        (4, {"implementation": "xla"}),
    ):
        run(make(key=jr.key(key), **extras), x)
    assert len(traces) == 2
    run(make(key=KEY, activation="relu"), x)
    run(make(key=KEY, compute_dtype="bfloat16"), x)
    run(make(key=KEY, compute_dtype=jnp.bfloat16), x)
    assert len(traces) == 4
    with pc.implementation("xla"):
        run(make(key=KEY), x)
    assert len(traces) == 5


def test_equality_and_hash():
    a, b = (pc.Conv2d(4, 6, 3, activation="relu", implementation=["auto"], key=KEY) for _ in range(2))
    assert a == b
    assert a != pc.Conv2d(4, 6, 3, activation="silu", implementation=["auto"], key=KEY)
    assert not eqx.tree_equal(a, eqx.tree_at(lambda m: m.bias, b, b.bias + 1))
    static = [eqx.filter(layer, eqx.is_array, inverse=True) for layer in (a, b)]
    assert hash(static[0]) == hash(static[1])
    assert static[0] == static[1]


class Net(eqx.Module):
    first: Any
    second: Any
    head: eqx.nn.Linear

    def __init__(self, nn: Any, key: Any):
        a, b, c = jr.split(key, 3)
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, key=a)
        self.second = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, groups=2, key=b)
        self.head = eqx.nn.Linear(4, 2, key=c)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.second(jax.nn.relu(self.first(x)))).mean((1, 2)))


def test_training_steps_equal_stock():
    @eqx.filter_jit
    def step(model: Any, x: jax.Array, y: jax.Array) -> tuple[jax.Array, Any]:
        loss, grads = eqx.filter_value_and_grad(lambda model: jnp.mean((jax.vmap(model)(x) - y) ** 2))(model)
        return loss, eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, grads))

    stock, ours = Net(eqx.nn, KEY), Net(pc, KEY)
    for seed in range(3):
        x, y = normal(5, 3, 8, 8, seed=seed), normal(5, 2, seed=seed + 10)
        (loss_stock, stock), (loss, ours) = step(stock, x, y), step(ours, x, y)
        assert_close(loss, loss_stock)
    for a, b in zip(arrays(ours), arrays(stock), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_weight_norm(name):
    stock, ours = (eqx.nn.WeightNorm(layer, "weight") for layer in small(name))
    assert_same_function(stock, ours, normal(4, 6, 6))


@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_spectral_norm(name):
    x, results = normal(4, 6, 6), []
    for layer in small(name):
        wrapped, state = eqx.nn.make_with_state(eqx.nn.SpectralNorm)(layer, "weight", key=KEY)
        for _ in range(2):
            y, state = eqx.filter_jit(wrapped)(x, state)
        results.append(y)
    assert_close(results[1], results[0])


def test_transformations_of_a_layer():
    """What stock supports beyond grad: forward mode, second derivatives, linear_transpose, Lambda and Sequential."""
    stock, ours = layers("Conv1d", 2, 3, 3, padding=1, use_bias=False)
    x = normal(2, 6)
    for f in (jax.jacfwd, jax.jacrev, lambda f: jax.hessian(lambda x: jnp.sum(jnp.tanh(f(x))))):
        assert_close(f(ours)(x), f(stock)(x))
    ct = normal(3, 6)
    assert_close(jax.linear_transpose(ours, x)(ct)[0], jax.linear_transpose(stock, x)(ct)[0])
    model = eqx.nn.Sequential([ours, eqx.nn.Lambda(jax.nn.relu), pc.Conv1d(3, 1, 1, key=KEY)])
    same = eqx.nn.Sequential([stock, eqx.nn.Lambda(jax.nn.relu), eqx.nn.Conv1d(3, 1, 1, key=KEY)])
    assert_close(model(x, key=KEY), same(x, key=KEY))


# ---------------------------------------------------------------- the extras


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["Conv1d", "ConvTranspose2d"])
def test_activation(name, activation):
    """Of a fused activation: result and gradients are those of jax.nn after the stock layer."""
    stock, ours = getattr(eqx.nn, name)(4, 6, 3, key=KEY), getattr(pc, name)(4, 6, 3, activation=activation, key=KEY)
    assert_same_function(stock, ours, normal(4, *[7] * ours.num_spatial_dims), ACTIVATIONS[activation])


def test_activation_at_zero():
    """The kinks: the derivatives at 0 are those of jax.nn, although they are read from the result."""
    zero = lambda layer: eqx.tree_at(lambda m: (m.weight, m.bias), layer, (jnp.ones((1, 1, 1)), jnp.zeros((1, 1))))
    for name, f in ACTIVATIONS.items():
        layer = zero(pc.Conv1d(1, 1, 1, activation=name, key=KEY))
        got = jax.grad(lambda x, layer=layer: layer(x)[0, 0])(jnp.zeros((1, 1)))[0, 0]
        assert got == pytest.approx(float(jax.grad(f)(0.0))), name


def as_bf16(t: jax.Array) -> np.ndarray:
    return np.asarray(t.astype(jnp.bfloat16)).astype(np.float64)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_compute_dtype(name, activation):
    """bfloat16 over float32 parameters: a bfloat16 result; float32 gradients that bfloat16 has never rounded."""
    layer = getattr(pc, name)(4, 6, 3, 2, padding=1, compute_dtype=jnp.bfloat16, activation=activation, key=KEY)
    x = normal(4, 33, 33)
    y, vjp = jax.vjp(lambda p, x: eqx.combine(p, layer)(x), eqx.filter(layer, eqx.is_array), x)
    ct = normal(*y.shape, dtype=jnp.bfloat16, seed=5)
    assert y.dtype == jnp.bfloat16
    grads, dx = vjp(ct)
    assert (grads.weight.dtype, grads.bias.dtype, dx.dtype) == (jnp.float32,) * 3
    with jax.enable_x64(True):  # float64 with operands as bfloat16 has them
        x64, w64, b64, g64 = map(jnp.asarray, (as_bf16(x), as_bf16(layer.weight), as_bf16(layer.bias), as_bf16(ct)))
        plain = getattr(eqx.nn, name)(4, 6, 3, 2, padding=1, key=KEY)
        wide = eqx.tree_at(lambda m: (m.weight, m.bias), plain, (w64, b64))
        z, pull = jax.vjp(lambda p, x: eqx.combine(p, wide)(x), eqx.filter(wide, eqx.is_array), x64)
        assert z.dtype == jnp.float64
        g = g64 if activation is None else jax.vjp(ACTIVATIONS[activation], z)[1](g64)[0]
        exact, exact_dx = pull(g)
    # Without an activation the cotangent is exact: what is left are float32 sums. With one, it is rounded to be multiplied.
    eps = 2**-24 if activation is None else 2**-9
    for got, want in ((grads.weight, exact.weight), (grads.bias, exact.bias), (dx, exact_dx)):
        got, want = np.asarray(got).astype(np.float64), np.asarray(want)
        assert np.abs(got - want).max() <= 64 * eps * np.abs(want).max()
    for got in (grads.weight, grads.bias):  # more than eight significant bits
        assert np.mean(as_bf16(got) != np.asarray(got)) > 0.5


def test_compute_dtype_takes_any_input():
    layer = pc.Conv2d(4, 6, 3, compute_dtype=jnp.bfloat16, key=KEY)
    x = normal(4, 8, 8)
    for given in (x, x.astype(jnp.bfloat16), x.astype(jnp.float16)):
        assert layer(given).dtype == jnp.bfloat16


def products(f: Any, *args: Any) -> list[str]:
    return [plan.implementation for plan in pc.explain(f, *args, device="h100")]


@pytest.mark.parametrize("given", ["xla", ("xla",), ["xla"], ("mosaic", "xla")])
def test_implementation(given):
    """A layer's own wins over the context; None follows it."""
    x = normal(8, 8, 8, dtype=jnp.bfloat16)
    make = functools.partial(pc.Conv2d, 8, 8, 3, dtype=jnp.bfloat16, key=KEY)
    layer, follows = make(implementation=given), make()
    expected = ["mosaic" if "mosaic" in given else "xla"]
    assert products(layer, x) == expected
    with pc.implementation("mosaic"):
        assert products(layer, x) == expected
        assert products(follows, x) == ["mosaic"]
    with pc.implementation("xla"):
        assert products(layer, x) == expected
        assert products(follows, x) == ["xla"]
    assert isinstance(layer.implementation, tuple)


def test_strict_implementation_on_a_cpu():
    layer = pc.Conv2d(4, 6, 3, implementation="mosaic", key=KEY)
    with pytest.raises(pc.UnsupportedError, match="mosaic") as error:
        layer(normal(4, 8, 8))
    assert len(error.value.reasons) == 1  # no GPU
    assert_identical(
        pc.Conv2d(4, 6, 3, implementation=("mosaic", "xla"), key=KEY)(normal(4, 8, 8)),
        eqx.nn.Conv2d(4, 6, 3, key=KEY)(normal(4, 8, 8)),
    )


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
    [pytest.param(seed, marks=[pytest.mark.extended] * (seed >= 24)) for seed in range(400) if seed not in XLA_ABORTS],
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


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_that_type_checkers_see_is_that_of_the_constructor(name):
    """It is written out for them; the constructor takes what equinox's takes."""
    tree = ast.parse(inspect.getsource(sys.modules[pc.Conv.__module__]))
    (written,) = (n for c in tree.body if isinstance(c, ast.ClassDef) and c.name == name for n in ast.walk(c)
                  if isinstance(n, ast.FunctionDef))  # fmt: skip
    seen = [a.arg for a in written.args.args], [a.arg for a in written.args.kwonlyargs]
    parameters = inspect.signature(getattr(pc, name).__init__).parameters.values()
    real = tuple(
        [p.name for p in parameters if p.kind is kind]
        for kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    )
    assert seen == real


@pytest.mark.parametrize("name", NAMES)
def test_every_constructor_documents_every_argument(name):
    constructor = getattr(pc, name).__init__
    for argument in list(inspect.signature(constructor).parameters)[1:]:
        assert re.search(rf"`{argument}`", constructor.__doc__), argument
    assert ("num_spatial_dims`: " in constructor.__doc__) == (name[-1] != "d")

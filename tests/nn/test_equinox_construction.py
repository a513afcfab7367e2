"""The layers as objects, against the installed equinox: parameters, fields, files, signatures."""

import ast
import dataclasses
import inspect
import io
import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import pallas_conv as pc
from tests.nn.layers import DTYPES, EXTRAS, NAMES, assert_identical, assert_same_layer, layers, normal, small


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


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_that_type_checkers_see_is_that_of_the_constructor(name):
    """The signature that type checkers see is written out; the constructor takes what equinox's takes."""
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

"""pallas_conv.inox against inox itself: construction and parameters, the program, errors."""

import collections
import inspect
import re
import subprocess
import sys

import inox
import inox.nn as stock
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import pallas_conv as pc
from tests.nn.inox_layers import CASES, IN_CI, KEY, NAMES, assert_close, by_inox, pair, trained


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", IN_CI)
def test_same_tree_and_same_parameters(name, case):
    theirs, ours = pair(name, **CASES[case][0])
    assert isinstance(ours, getattr(stock, name))
    ((theirs_paths, _), (ours_paths, _)) = (jax.tree_util.tree_flatten_with_path(m) for m in (theirs, ours))
    assert [path for path, _ in ours_paths] == [path for path, _ in theirs_paths]
    for (_, a), (_, b) in zip(theirs_paths, ours_paths, strict=True):
        assert type(a) is type(b)
        assert np.array_equal(a, b)
    # Apart from the class, the same structure: printed, classes have no module.
    assert str(jax.tree.structure(theirs)) == str(jax.tree.structure(ours))


def test_parameters_come_from_the_context_of_inox():
    def make(package):
        with inox.random.set_rng(init=inox.random.PRNG(42)):
            return [
                package.Linear(3, 4),
                package.Conv(3, 4, (3,)),
                package.ConvTransposed(4, 3, (2, 2)),
            ]

    for a, b in zip(*(jax.tree.leaves(make(package)) for package in (stock, pc.inox)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(AssertionError, match="no RNG state with name 'init'"):
        pc.inox.Conv(3, 4, (3,))


def test_an_error_takes_no_key_from_the_context():
    with inox.random.set_rng(init=inox.random.PRNG(42)):
        before = inox.random.get_rng("init").state
        with pytest.raises(ValueError, match="groups"):
            pc.inox.Conv(3, 4, (3,), groups=2)
        np.testing.assert_array_equal(inox.random.get_rng("init").state, before)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_cross(name):
    theirs, ours = map(trained, pair(name, kernel_size=(3, 3), key=KEY))
    x = jr.normal(jr.key(1), (2, 7, 6, 4))
    (their_static, their_params, their_rest) = theirs.partition(stock.Parameter)
    (our_static, our_params, our_rest) = ours.partition(stock.Parameter)
    assert set(our_params) == set(their_params) == {".kernel.value", ".bias.value"}
    assert our_rest == their_rest == {}
    assert_close(our_static(their_params, their_rest)(x), by_inox(theirs, x))
    assert_close(by_inox(their_static(our_params, our_rest), x), ours(x))


def test_linear_is_the_one_of_inox():
    assert pc.inox.Linear is stock.Linear
    layer = pc.inox.Linear(3, 4, key=KEY)
    x = jr.normal(jr.key(1), (2, 5, 3))
    assert_close(by_inox(layer, x), jnp.einsum("bti,io->bto", x, layer.weight()))


def test_signatures_are_those_of_inox():
    for name in NAMES:
        ours, theirs = (inspect.signature(getattr(package, name)).parameters for package in (pc.inox, stock))
        assert list(ours) == list(theirs)
        assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]
        assert [p.kind for p in ours.values()] == [p.kind for p in theirs.values()]


# ---------------------------------------------------------------- the program


def opcodes(f, *args):
    text = jax.jit(f).lower(*args).compile().as_text()
    return collections.Counter(re.findall(r"= \S+ ([\w-]+)\(", text))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("batch", "case"),
    [((), "plain"), ((1,), "plain"), ((4,), "plain"), ((2, 3), "plain")]
    + [((2, 3), case) for case in ("no bias", "strided", "dilated", "depthwise")],
    ids=str,
)
def test_xla_is_the_program_of_inox(name, batch, case):
    """Opcode by opcode: the transposes to channels first and back cancel."""
    kwargs, spatial = CASES[case]
    x = jr.normal(jr.key(1), (*batch, *spatial, 4))
    theirs, ours = pair(name, **kwargs)

    def compiled(layer, call):
        static, arrays = layer.partition()
        return opcodes(lambda arrays, x: call(static(arrays), x), arrays, x)

    with pc.implementation("xla"):
        assert compiled(ours, lambda layer, x: layer(x)) == compiled(theirs, by_inox)


def test_the_context_chooses_the_implementation():
    _, ours = pair("Conv", kernel_size=(3, 3))
    x = jr.normal(jr.key(1), (2, 7, 6, 4))
    with pc.implementation("xla"):
        (plan,) = pc.explain(ours, x)
    assert plan.implementation == "xla"
    with pc.implementation("mosaic"), pytest.raises(pc.UnsupportedError):
        ours(x)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"kernel_size": 3}, TypeError, r"kernel_size must be a sequence.*such as \(3, 3\); got 3"),
        ({"kernel_size": (3, 0)}, ValueError, r"kernel_size must be at least 1.*got \(3, 0\)"),
        ({"kernel_size": (3, 3), "stride": (1,)}, ValueError, r"stride must have one entry a spatial dimension, 2"),
        ({"kernel_size": (3, 3), "stride": 0}, ValueError, "stride must be at least 1"),
        ({"kernel_size": (3, 3), "dilation": 1.5}, ValueError, "dilation must be an int or a sequence"),
        ({"kernel_size": (3, 3), "padding": "FULL"}, ValueError, "padding must be one of"),
        (
            {"kernel_size": (3, 3), "padding": [(1, 1)]},
            ValueError,
            "padding must be a string, an int, or a sequence of 2",
        ),
        ({"kernel_size": (3, 3), "groups": 3}, ValueError, r"in_channels \(=4\) must be divisible by groups \(=3\)"),
        ({"kernel_size": (3, 3), "groups": 0}, ValueError, "groups must be an int of at least 1"),
        ({"kernel_size": (3, 3), "out_channels": 7, "groups": 2}, ValueError, r"out_channels \(=7\) must be divisible"),
        ({"kernel_size": (3, 3), "in_channels": 0}, ValueError, "in_channels must be an int of at least 1"),
    ],
)
def test_errors_of_the_constructor(kwargs, error, message):
    for name in NAMES:
        with pytest.raises(error, match=message):
            getattr(pc.inox, name)(**{"in_channels": 4, "out_channels": 8, "key": KEY} | kwargs)


def test_errors_of_a_call():
    _, ours = pair("Conv", kernel_size=(3, 3), groups=2)
    with pytest.raises(ValueError, match=r"x must have at least 3 dimensions for `Conv`.*its shape is \(6, 4\)"):
        ours(jnp.zeros((6, 4)))
    with pytest.raises(ValueError, match="x has 6 channels, but the weight takes 2 for each of 2 groups: 4 in all"):
        ours(jnp.zeros((2, 7, 6, 6)))
    with pytest.raises(TypeError, match=r"same dtype; got x: bfloat16, kernel: float32. Cast one of them"):
        ours(jnp.zeros((2, 7, 6, 4), jnp.bfloat16))
    with pytest.raises(TypeError, match="x must be a JAX or NumPy array; got list"):
        ours([[[1.0]]])
    ours.bias.value = jnp.zeros(7)
    with pytest.raises(ValueError, match=r"bias of `Conv` must have shape \(8,\).*got \(7,\)"):
        ours(jnp.zeros((7, 6, 4)))
    ours.kernel.value = ours.kernel.value[None]
    with pytest.raises(ValueError, match=r"kernel of `Conv` must have shape.*jax.vmap"):
        ours(jnp.zeros((7, 6, 4)))


def test_a_layer_across_jit_is_told_how():
    _, ours = pair("Conv", kernel_size=(3,))
    x = jnp.zeros((2, 7, 4))
    call = jax.jit(lambda layer, x: layer(x))
    with pytest.raises(TypeError, match=r"stride is traced.*Use inox\.jit"):
        call(ours, x)
    assert inox.jit(lambda layer, x: layer(x))(ours, x).shape == (2, 5, 8)


def test_without_inox_the_rest_works_and_says_what_to_install():
    program = """
import sys
sys.modules["inox"] = None
import pallas_conv
assert "pallas_conv.nn.inox" not in sys.modules
try:
    pallas_conv.inox
except ImportError as error:
    assert "pip install inox" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)

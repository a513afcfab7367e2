"""pallas_conv.inox against inox itself and against lax: parameters, pytree, results, derivatives, errors."""

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
from jax import lax
from jax.test_util import check_grads

import pallas_conv as pc

KEY = jr.key(0)
NAMES = ("Conv", "ConvTransposed")

# arguments after the channels, and the spatial shape of x
CASES = {
    "plain": ({"kernel_size": (3, 3)}, (7, 6)),
    "no bias": ({"kernel_size": (3, 3), "bias": False}, (7, 6)),
    "array": ({"kernel_size": np.array([3, 2]), "stride": 2}, (7, 6)),
    "1d": ({"kernel_size": (5,), "stride": 2, "padding": 1}, (11,)),
    "3d": ({"kernel_size": (3, 2, 1), "stride": (1, 2, 1), "padding": 1}, (4, 5, 3)),
    "strided": ({"kernel_size": [4, 3], "stride": [3, 2], "padding": [(1, 2), (0, 1)]}, (9, 8)),
    "dilated": ({"kernel_size": (3, 2), "dilation": (2, 3), "padding": 2}, (7, 8)),
    "grouped": ({"kernel_size": (3, 3), "groups": 2, "stride": 2, "dilation": 2, "padding": 1}, (9, 8)),
    "depthwise": ({"kernel_size": (3, 3), "groups": 4, "padding": 1}, (7, 6)),
    # Not (-1, 1): XLA's own convolution on CPUs reads outside x there (JAX 0.11; not in JAX 0.12).
    "cropped": ({"kernel_size": (2, 2), "padding": [(-1, 0), (1, -2)]}, (7, 8)),
    "pointwise": ({"kernel_size": (1, 1), "stride": 2}, (7, 6)),
}
OFTEN = ("no bias", "array", "3d", "strided", "grouped", "cropped")
IN_CI = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.extended) for name in CASES]
BATCHES = [(), (1,), (3,), (2, 3), (2, 1, 2), (0,)]


def pair(name, in_channels=4, out_channels=8, key=KEY, **kwargs):
    make = lambda package: getattr(package, name)(in_channels, out_channels, key=key, **kwargs)
    return make(stock), make(pc.inox)


def trained(layer):
    """With a bias that is not zero."""
    if layer.bias is not None:
        layer.bias.value = jr.normal(jr.key(7), layer.bias.value.shape, layer.bias.value.dtype)
    return layer


def by_inox(layer, x):
    """inox adds the bias by rank promotion."""
    with jax.numpy_rank_promotion("allow"):
        return layer(x)


def by_lax(layer, x, transposed):
    """The documented algebra, one image at a time, in the layout of lax's default."""
    kernel, n = layer.kernel(), len(layer.kernel_size)
    pairs = [p if isinstance(p, tuple) else (p, p) for p in layer.padding]
    reach = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    dilated = [(r - low, r - high) for r, (low, high) in zip(reach, pairs, strict=True)]
    images = [
        lax.conv_general_dilated(
            jnp.moveaxis(image, -1, 0)[None],
            jnp.moveaxis(kernel, (-1, -2), (0, 1)),
            window_strides=[1] * n if transposed else layer.stride,
            padding=dilated if transposed else pairs,
            lhs_dilation=layer.stride if transposed else [1] * n,
            rhs_dilation=layer.dilation,
            feature_group_count=layer.groups,
        )[0]
        for image in x.reshape(-1, *x.shape[-n - 1 :])
    ]
    y = jnp.moveaxis(jnp.stack(images), 1, -1)
    y = y if layer.bias is None else y + jnp.broadcast_to(layer.bias(), y.shape)
    return y.reshape(*x.shape[: -n - 1], *y.shape[1:])


def assert_close(a, b, tol=1e-5):
    def close(p, q):
        assert p.dtype == q.dtype
        np.testing.assert_allclose(p.astype(jnp.float32), q.astype(jnp.float32), rtol=tol, atol=tol)

    jax.tree.map(close, a, b)


# ---------------------------------------------------------------- construction


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


# ---------------------------------------------------------------- results


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", IN_CI)
def test_forward_and_gradient(name, case):
    kwargs, spatial = CASES[case]
    theirs, ours = map(trained, pair(name, **kwargs))
    x = jr.normal(jr.key(1), (2, *spatial, 4))

    def run(layer, call):
        static, params, others = layer.partition(stock.Parameter)

        @jax.jit
        def both(params, x):
            y, pull = jax.vjp(lambda params, x: call(static(params, others), x), params, x)
            return y, pull(jnp.cos(y))

        return both(params, x)

    ours_y, ours_grads = run(ours, lambda layer, x: layer(x))
    theirs_y, theirs_grads = run(theirs, by_inox)
    assert_close(ours_y, theirs_y)
    assert_close(ours_grads, theirs_grads, 1e-4)
    assert_close(ours_y, jax.jit(lambda x: by_lax(theirs, x, name == "ConvTransposed"))(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_batch_dimensions(name, batch):
    theirs, ours = map(trained, pair(name, kernel_size=(3, 2), stride=2, padding=1))
    x = jr.normal(jr.key(1), (*batch, 7, 6, 4))
    y = jax.jit(ours)(x)
    assert y.shape[: len(batch)] == batch
    if 0 in batch:  # which inox cannot do
        assert y.size == 0
    else:
        assert_close(y, jax.jit(lambda x: by_inox(theirs, x))(x))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name):
    def half(layer):
        return jax.tree.map(lambda t: t.astype(jnp.bfloat16) if isinstance(t, jax.Array) else t, trained(layer))

    theirs, ours = map(half, pair(name, kernel_size=(3, 3), padding=1))
    x = jr.normal(jr.key(1), (2, 7, 6, 4), jnp.bfloat16)
    assert ours(x).dtype == jnp.bfloat16
    assert_close(ours(x), by_inox(theirs, x), 2e-2)
    ours.bias.value = theirs.bias.value = ours.bias.value.astype(jnp.float32)
    with jax.numpy_dtype_promotion("standard"):
        assert ours(x).dtype == jnp.float32
        assert_close(ours(x), by_inox(theirs, x), 2e-2)


def test_complex_parameters():
    theirs, ours = map(trained, pair("Conv", kernel_size=(3,)))
    for layer in (theirs, ours):
        layer.kernel = stock.ComplexParameter(lax.complex(layer.kernel(), 2 * layer.kernel()))
        layer.bias = None
    x = lax.complex(*jr.normal(jr.key(1), (2, 3, 7, 4)))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_padding_by_name_is_that_of_lax(name):
    if name == "ConvTransposed":
        with pytest.raises(ValueError, match="padding of a transposed convolution must be"):
            pc.inox.ConvTransposed(4, 8, (3,), padding="SAME", key=KEY)
        return
    x = jr.normal(jr.key(1), (2, 9, 4))
    for padding in ("SAME", "VALID", "same_lower"):
        theirs, ours = pair(name, kernel_size=(4,), stride=2, padding=padding)
        assert_close(ours(x), by_inox(theirs, x))


def test_the_kernel_is_not_flipped_and_transpose_weight_is_the_transpose():
    conv = pc.inox.Conv(4, 6, (3, 2), bias=False, stride=2, padding=1, groups=2, key=KEY)
    back = pc.inox.ConvTransposed(6, 4, (3, 2), bias=False, stride=2, padding=1, groups=2, key=KEY)
    back.kernel.value = pc.transpose_weight(conv.kernel(), 2, layout="channels_last")
    x = jr.normal(jr.key(1), (2, 7, 6, 4))
    y = jr.normal(jr.key(2), conv(x).shape)
    (transposed,) = jax.linear_transpose(conv, x)(y)
    assert_close(back(y), transposed)


# ---------------------------------------------------------------- transformations


@pytest.mark.parametrize("name", NAMES)
def test_transformations_agree_with_inox(name):
    theirs, ours = map(trained, pair(name, kernel_size=(3,), stride=2, padding=1, groups=2))
    x = jr.normal(jr.key(1), (5, 4))
    t = jr.normal(jr.key(2), (5, 4))
    transformations = {
        "jit": lambda f: jax.jit(f)(x),
        "inox.jit": lambda f: inox.jit(lambda layer, x: layer(x))(f, x),
        "jvp": lambda f: jax.jvp(f, (x,), (t,)),
        "linearize": lambda f: jax.linearize(f, x)[1](t),
        "jacfwd": lambda f: jax.jacfwd(f)(x),
        "jacrev": lambda f: jax.jacrev(f)(x),
        "hessian": lambda f: jax.hessian(lambda x: jnp.sum(jnp.sin(f(x))))(x),
        "vmap": lambda f: jax.vmap(f)(jnp.stack([x, t])),
        "vmap inside": lambda f: jax.vmap(f, in_axes=1, out_axes=-1)(jnp.stack([x, t], 1)),
        "checkpoint": lambda f: jax.grad(jax.checkpoint(lambda x: jnp.sum(jnp.sin(f(x)))))(x),
    }
    for transform in transformations.values():
        with jax.numpy_rank_promotion("allow"):
            assert_close(transform(ours), transform(theirs), 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_against_differences(name):
    _, ours = pair(name, kernel_size=(3,), stride=2, padding=1)
    static, params, others = trained(ours).partition(stock.Parameter)
    f = lambda params, x: jnp.sin(static(params, others)(x))
    check_grads(f, (params, jr.normal(jr.key(1), (2, 5, 4))), order=2, atol=3e-2, rtol=3e-2)


def test_ensemble():
    """vmap over parameters, as inox does it: the arrays apart from the static definition."""
    layers = [pair("Conv", kernel_size=(3, 3), key=key) for key in jr.split(KEY, 3)]
    x = jr.normal(jr.key(1), (2, 7, 6, 4))
    static, _ = layers[0][1].partition()
    stacked = jax.tree.map(lambda *ts: jnp.stack(ts), *(ours.partition()[1] for _, ours in layers))
    y = jax.vmap(lambda arrays: static(arrays)(x))(stacked)
    assert_close(y, jnp.stack([by_inox(theirs, x) for theirs, _ in layers]))


def test_training_a_model_with_shared_parameters():
    """inox's own way: partition, grad with respect to the parameters, and Scope and Reference to tie layers."""

    def make(package):
        class Tied(stock.Scope):
            def __init__(self):
                self.first = stock.Reference("conv", package.Conv(4, 4, (3,), padding=1, key=KEY))
                self.second = self.first
                self.down = package.Conv(4, 4, (3,), stride=2, padding=1, key=KEY)
                self.down.kernel = self.tied = stock.Reference("kernel", self.down.kernel)
                self.up = package.ConvTransposed(4, 4, (4,), stride=2, padding=1, key=KEY)
                self.head = package.Linear(4, 2, key=KEY)

            def __call__(self, x):
                x = self.second(jnp.tanh(self.first(x)))
                return self.head(self.up(jnp.tanh(self.down(x))))

        return Tied()

    x = jr.normal(jr.key(1), (3, 8, 4))

    def train(model):
        static, params, others = model.partition(stock.Parameter)

        @jax.jit
        def step(params):
            loss = lambda params: jnp.mean(static(params, others)(x) ** 2)
            value, grads = jax.value_and_grad(loss)(params)
            return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

        values = []
        for _ in range(3):
            value, params = step(params)
            values.append(value)
        return values, params

    with jax.numpy_rank_promotion("allow"):
        theirs, ours = train(make(stock)), train(make(pc.inox))
    assert_close(ours, theirs, 1e-4)
    assert ours[0][-1] < ours[0][0]


def test_the_configuration_survives_a_tree_map():
    """Which may make arrays of its integers, as loading a checkpoint does."""
    theirs, ours = map(trained, pair("ConvTransposed", kernel_size=(3, 2), stride=2, padding=1))
    x = jr.normal(jr.key(1), (2, 7, 6, 4))
    for asarray in (jnp.asarray, np.asarray):
        assert_close(jax.tree.map(asarray, ours)(x), by_inox(theirs, x))


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

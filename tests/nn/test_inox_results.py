"""pallas_conv.inox against inox itself and against lax: results, derivatives, transformations, training."""

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
from tests.nn.inox_layers import CASES, IN_CI, KEY, NAMES, assert_close, by_inox, pair, trained

BATCHES = [(), (1,), (3,), (2, 3), (2, 1, 2), (0,)]


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
    """A tree map may make arrays of a configuration's integers, as loading a checkpoint does."""
    theirs, ours = map(trained, pair("ConvTransposed", kernel_size=(3, 2), stride=2, padding=1))
    x = jr.normal(jr.key(1), (2, 7, 6, 4))
    for asarray in (jnp.asarray, np.asarray):
        assert_close(jax.tree.map(asarray, ours)(x), by_inox(theirs, x))

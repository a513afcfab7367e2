"""Models of Flax (NNX and Linen) and Haiku through `pallas_conv.lax`: every product ours, outputs and gradients stock's."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_conv as pc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of theirs, on import
    import flax.linen as linen
    import haiku as hk
    from flax import nnx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 12, 10, 3)), "float32")
PRODUCTS = 3 * 5 - 1  # the input has no gradient


class NNX(nnx.Module):
    """A residual block, a strided and a depthwise convolution, and one back up."""

    def __init__(self, rngs: nnx.Rngs, **how):
        self.stem = nnx.Conv(3, 8, (3, 3), rngs=rngs, **how)
        self.wide = nnx.Conv(8, 8, (3, 3), kernel_dilation=2, rngs=rngs, **how)
        self.down = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs, **how)
        self.depthwise = nnx.Conv(16, 16, (3, 3), feature_group_count=16, padding="CIRCULAR", rngs=rngs, **how)
        self.up = nnx.ConvTranspose(16, 3, (4, 4), strides=(2, 2), rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        x = nnx.relu(x + self.wide(x))
        return self.up(nnx.relu(self.depthwise(self.down(x))))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(8, (3, 3))(x))
        x = linen.relu(x + linen.Conv(8, (3, 3), kernel_dilation=2)(x))
        x = linen.Conv(16, (3, 3), strides=2)(x)
        x = linen.relu(linen.Conv(16, (3, 3), feature_group_count=16, padding="CIRCULAR")(x))
        return linen.ConvTranspose(3, (4, 4), strides=(2, 2))(x)


@hk.without_apply_rng
@hk.transform
def haiku(x):
    x = jax.nn.relu(hk.Conv2D(8, 3)(x))
    x = jax.nn.relu(x + hk.Conv2D(8, 3, rate=2)(x))
    x = hk.Conv2D(16, 3, stride=2)(x)
    x = jax.nn.relu(hk.DepthwiseConv2D(1, 3)(x))
    return hk.Conv2DTranspose(3, 4, stride=2)(x)


def step(apply):
    """Value and gradient of a loss of one's own parameters."""
    return jax.value_and_grad(lambda params, x: jnp.mean(apply(params, x) ** 2))


def agree(ours, stock, params):
    assert pc.explain(stock, params, X).unconverted == PRODUCTS
    with pc.lax.patched():
        explanation = pc.explain(ours, params, X)
        got = jax.jit(ours)(params, X)
    assert explanation.unconverted == 0
    assert len(explanation) == PRODUCTS
    want = jax.jit(stock)(params, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, want)


def nnx_step(**how):
    graph, params, rest = nnx.split(NNX(nnx.Rngs(0), **how), nnx.Param, ...)
    return step(lambda params, x: nnx.merge(graph, params, rest)(x)), params


def test_flax_nnx():
    """Flax binds its default when it is imported, out of reach of `patched`: `conv_general_dilated` takes ours."""
    stock, params = nnx_step()
    ours, _ = nnx_step(conv_general_dilated=pc.lax.conv_general_dilated)
    agree(ours, stock, params)


def test_flax_linen():
    model = Linen()
    params = model.init(jax.random.key(0), X)
    agree(step(model.apply), step(model.apply), params)


def test_flax_linen_takes_a_function():
    stock = linen.Conv(8, (3, 3), strides=2)
    ours = linen.Conv(8, (3, 3), strides=2, conv_general_dilated=pc.lax.conv_general_dilated)
    params = stock.init(jax.random.key(0), X)
    assert (len(pc.explain(ours.apply, params, X)), pc.explain(ours.apply, params, X).unconverted) == (1, 0)
    np.testing.assert_allclose(ours.apply(params, X), stock.apply(params, X), rtol=1e-5, atol=1e-5)


def test_flax_linen_without_shared_kernels():
    stock, ours = linen.ConvLocal(4, (3, 3)), linen.ConvLocal(4, (3, 3))
    params = stock.init(jax.random.key(0), X)
    with pc.lax.patched():
        assert pc.explain(ours.apply, params, X).unconverted == 0
        got = ours.apply(params, X)
    np.testing.assert_allclose(got, stock.apply(params, X), rtol=1e-5, atol=1e-5)


def test_haiku():
    params = haiku.init(jax.random.key(0), X)
    agree(step(haiku.apply), step(haiku.apply), params)

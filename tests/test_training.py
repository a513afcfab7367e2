"""The gradients of a network by interpreted kernels: which products launched, and every gradient against equinox."""

import collections
import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_conv as pc


class Net(eqx.Module):
    """Strided down, transposed up, a 1x1 head: every kind of product of a training step."""

    first: eqx.nn.Conv2d
    down: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    head: eqx.nn.Conv2d

    def __init__(self, nn, key, **extras):
        keys = jax.random.split(key, 4)
        fused = {"activation": "relu"} if nn is pc else {}
        self.first = nn.Conv2d(4, 8, 3, padding=1, key=keys[0], **fused, **extras)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1, key=keys[1], **extras)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, key=keys[2], **extras)
        self.head = nn.Conv2d(4, 2, 1, key=keys[3], **extras)

    def __call__(self, x):
        h = self.first(x)
        h = h if getattr(self.first, "activation", None) else jax.nn.relu(h)
        return self.head(self.up(self.down(h)))


def gradients(model, x, target, implementation):
    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model):
        y = jax.vmap(model)(x)
        return jnp.mean(jnp.square(y.astype(jnp.float32) - target))

    with pc.implementation(implementation):
        return [np.asarray(g, np.float64) for g in jax.tree.leaves(gradient(model))]


@pytest.mark.timeout(280)
def test_gradients_by_interpreted_kernels(caplog):
    key = jax.random.key(7)
    x = jax.random.normal(jax.random.key(1), (2, 4, 8, 10))
    target = jax.random.normal(jax.random.key(2), (2, 2, 8, 10))
    model = Net(pc, key, compute_dtype=jnp.bfloat16)

    with caplog.at_level(logging.DEBUG, logger="pallas_conv"):
        kernels = gradients(model, x, target, "interpret")
    launched = collections.Counter(
        r.getMessage().split()[-1] for r in caplog.records if "interpreting" in r.getMessage()
    )
    # Backward: dx of the transposed layer (a strided convolution) and of the strided layer (one with output phases), all
    # gradients of the head (1x1) at once; no dx for the first layer. The strided layer's bias gradient is summed in passing.
    assert launched == {
        "pallas_conv_dense_fprop_2d_bf16_s1_bias_relu": 1,
        "pallas_conv_dense_fprop_2d_bf16_s2_bias": 1,
        "pallas_conv_dense_fprop_2d_bf16_s1u2_bias": 1,
        "pallas_conv_dense_fprop_2d_bf16_s1_bias": 1,
        "pallas_conv_dense_dgrad_2d_bf16_s2_linear": 1,
        "pallas_conv_dense_dgrad_2d_bf16_s1u2_linear": 1,
        "pallas_conv_wgrad_2d_bf16f32_s1_linear": 1,
        "pallas_conv_wgrad_2d_bf16f32_s2_dwdb": 1,
        "pallas_conv_wgrad_2d_bf16f32_u2_linear": 1,
        "pallas_conv_pointwise_2d_bf16_s1_bias_dxdwdb": 1,
    }

    stock = gradients(Net(eqx.nn, key), x, target, "auto")
    baseline = gradients(model, x, target, "xla")
    for ours, same_dtype, exact in zip(kernels, baseline, stock, strict=True):
        fair = np.abs(same_dtype - exact).max()
        ulp = float(jnp.finfo(jnp.bfloat16).eps) * np.abs(exact).max()
        assert np.abs(ours - exact).max() <= 2 * fair + ulp
        assert np.abs(exact).max() > 0


def test_strict_interpretation_needs_a_kernel_for_every_product():
    """A layer of more than 64 taps a side has none."""
    model = Net(pc, jax.random.key(0), compute_dtype=jnp.bfloat16)
    x, target = jnp.ones((1, 4, 8, 8)), jnp.ones((1, 2, 8, 8))
    long = pc.Conv2d(8, 8, (3, 65), 2, ((1, 1), (32, 32)), key=jax.random.key(1), compute_dtype=jnp.bfloat16)
    with pytest.raises(pc.UnsupportedError, match="at most 64 a side"):
        gradients(eqx.tree_at(lambda net: net.down, model, long), x, target, "interpret")

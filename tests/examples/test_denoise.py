"""The demo's parts: real photographs from the wheel, a split that does not leak, a model that learns and converts."""

import socket
from importlib.metadata import files

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import pallas_conv as pc
from examples.denoise import data, training
from examples.denoise.model import Separable, UNet, loss

WIDTHS = (8, 16)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the demo must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", data.TRAINING + data.HELD_OUT)
def test_photographs_are_in_the_wheel(name, offline):
    assert f"skimage/data/{name}" in map(str, files("scikit-image"))
    picture = data.photograph(name)
    assert picture.dtype == np.float32
    assert picture.shape[0] == 3
    assert min(picture.shape[1:]) >= 288
    assert 0 <= picture.min() < picture.max() <= 1
    assert picture.std() > 0.05


def test_held_out_photographs_are_not_trained_on():
    assert not set(data.TRAINING) & set(data.HELD_OUT)
    middles = data.held_out(0).clean
    for name in data.TRAINING:
        assert all(not np.array_equal(data.photograph(name), data.photograph(other)) for other in data.HELD_OUT)
    assert len(middles) == len(data.HELD_OUT)


def test_batches_depend_on_seed_and_step_alone():
    patches = data.Patches(3, batch=2, size=16)
    first = patches(5)
    patches(6)
    again = data.Patches(3, batch=2, size=16)(5)
    np.testing.assert_array_equal(first.noisy, again.noisy)
    np.testing.assert_array_equal(first.clean, again.clean)
    for other in (patches(6), data.Patches(4, batch=2, size=16)(5)):
        assert not np.array_equal(first.clean, other.clean)


def test_noise_has_the_stated_level():
    noisy, clean = data.held_out(0)
    assert noisy.dtype == clean.dtype == np.float32
    np.testing.assert_allclose((noisy - clean).std(), data.SIGMA, rtol=0.01)
    assert abs((noisy - clean).mean()) < 1e-3


def test_psnr():
    clean = np.full((3, 8, 8), 0.5)
    assert data.psnr(clean + 0.1, clean) == pytest.approx(20)
    assert data.psnr(clean + 0.01, clean) == pytest.approx(40)
    assert data.psnr(np.full_like(clean, 7.0), np.ones_like(clean) - 0.1) == pytest.approx(20)  # clipped


def test_the_model_has_a_convolution_of_every_kind():
    model = UNet(WIDTHS, key=jax.random.key(0))
    layers = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, eqx.nn.Conv | eqx.nn.ConvTranspose))
    convs = [layer for layer in layers if isinstance(layer, eqx.nn.Conv)]
    assert any(layer.stride == (2, 2) for layer in convs)
    assert any(layer.dilation == (2, 2) for layer in convs)
    assert any(layer.groups == layer.in_channels > 1 for layer in convs)
    assert any(isinstance(layer, eqx.nn.ConvTranspose) for layer in layers)
    assert [layer.padding_mode for layer in convs].count("CIRCULAR") == 1


def test_separable_is_a_convolution_in_each_channel_then_a_mix():
    block = Separable(4, layers=eqx.nn, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, 6, 6))
    touched = block.depthwise(x.at[2].add(1.0)) != block.depthwise(x)
    assert touched.any(axis=(1, 2)).tolist() == [False, False, True, False]
    assert block(x).shape == x.shape


def test_pallas_conv_layers_get_the_weights_of_stock_ones():
    stock, ours = (UNet(WIDTHS, layers=layers, key=jax.random.key(0)) for layers in (eqx.nn, pc))
    assert type(ours.stem) is pc.Conv2d
    assert type(ours.up[0]) is pc.ConvTranspose2d
    for a, b in zip(jax.tree.leaves(stock), jax.tree.leaves(ours), strict=True):
        np.testing.assert_array_equal(a, b)


def test_converted_model_shares_arrays_and_computes_the_same():
    stock = UNet(WIDTHS, key=jax.random.key(0))
    ours = pc.convert(stock, to="pallas_conv")
    assert all(a is b for a, b in zip(jax.tree.leaves(stock), jax.tree.leaves(ours), strict=True))
    batch = data.Patches(0, batch=2, size=16)(0)
    np.testing.assert_allclose(loss(stock, *batch), loss(ours, *batch), rtol=1e-5)


def test_training_in_lockstep():
    stock = UNet(WIDTHS, key=jax.random.key(0))
    models = {"stock": stock, "ours": pc.convert(stock, to="pallas_conv")}
    first, second = training.train(models, data.Patches(0, batch=2, size=16), steps=3)
    assert len(first.losses) == len(second.losses) == len(first.seconds) == len(second.seconds) == 3
    assert training.largest_relative_difference(first.losses, second.losses) < 1e-3
    moved = optax.tree.norm(
        jax.tree.map(lambda a, b: a - b, *(eqx.filter(m, eqx.is_array) for m in (stock, first.model)))
    )
    assert moved > 1e-3
    assert first.denoise(np.zeros((2, 3, 16, 16), np.float32)).shape == (2, 3, 16, 16)


def test_a_batch_can_be_overfitted():
    batch = data.Patches(0, batch=2, size=16)(0)
    (run,) = training.train({"stock": UNet(WIDTHS, key=jax.random.key(0))}, lambda step: batch, steps=60)
    assert run.losses[-1] < 0.6 * run.losses[0]


def test_speed_up_is_of_neighbouring_steps_after_the_warm_up():
    slow, fast = (training.Run(name, None) for name in ("slow", "fast"))
    slow.seconds = [9.0] * training.WARM_UP + [0.4, 0.2, 0.8]
    fast.seconds = [1.0] * training.WARM_UP + [0.2, 0.1, 0.4]
    speed_up = training.SpeedUp.of(slow, fast)
    assert speed_up.ratio == speed_up.low == speed_up.high == pytest.approx(2)
    assert speed_up.baseline_ms == pytest.approx(400)
    assert speed_up.ms == pytest.approx(200)

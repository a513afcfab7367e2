"""The demo's parts: real photographs from the wheel, a split that does not leak, a model that learns and converts."""

import socket
from importlib.metadata import files

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import pallas_conv as pc
from examples.denoise import data, miniature, report, training
from examples.denoise.model import Separable, UNet, loss
from pallas_conv.spec import OUTPUTS

WIDTHS = (8, 16)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the demo must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def as_users_promote():
    """optax's schedules mix integers and floats; the demo runs with JAX's default promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def stock():
    return UNet(WIDTHS, key=jax.random.key(0))


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
    seen = data.Patches(0).photographs
    assert len(seen) == len(data.TRAINING)
    assert len(data.held_out(0).clean) == len(data.HELD_OUT)
    for name in data.HELD_OUT:
        assert not any(np.array_equal(data.photograph(name), photograph) for photograph in seen)


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


def test_the_model_has_a_convolution_of_every_kind(stock):
    layers = jax.tree.leaves(stock, is_leaf=lambda node: isinstance(node, eqx.nn.Conv | eqx.nn.ConvTranspose))
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


def test_pallas_conv_layers_get_the_weights_of_stock_ones(stock):
    ours = UNet(WIDTHS, layers=pc, key=jax.random.key(0))
    assert type(ours.stem) is pc.Conv2d
    assert type(ours.up[0]) is pc.ConvTranspose2d
    for a, b in zip(jax.tree.leaves(stock), jax.tree.leaves(ours), strict=True):
        np.testing.assert_array_equal(a, b)


def test_converted_model_shares_arrays_and_computes_the_same(stock):
    ours = pc.convert(stock, to="pallas_conv")
    assert all(a is b for a, b in zip(jax.tree.leaves(stock), jax.tree.leaves(ours), strict=True))
    batch = data.Patches(0, batch=2, size=16)(0)
    np.testing.assert_allclose(loss(stock, *batch), loss(ours, *batch), rtol=1e-5)


def test_training_in_lockstep(stock, as_users_promote):
    models = {"stock": stock, "ours": pc.convert(stock, to="pallas_conv")}
    first, second = training.train(models, data.Patches(0, batch=2, size=16), steps=3)
    assert len(first.losses) == len(second.losses) == len(first.seconds) == len(second.seconds) == 3
    assert training.largest_relative_difference(first.losses, second.losses) < 1e-3
    moved = optax.tree.norm(
        jax.tree.map(lambda a, b: a - b, *(eqx.filter(m, eqx.is_array) for m in (stock, first.model)))
    )
    assert moved > 1e-3
    assert first.denoise(np.zeros((2, 3, 16, 16), np.float32)).shape == (2, 3, 16, 16)


def test_a_batch_can_be_overfitted(stock, as_users_promote):
    batch = data.Patches(0, batch=2, size=16)(0)
    (run,) = training.train({"stock": stock}, lambda step: batch, steps=60)
    assert run.losses[-1] < 0.6 * run.losses[0]


def test_speed_up_is_of_neighbouring_steps_after_the_warm_up():
    slow, fast = (training.Run(name, None) for name in ("slow", "fast"))
    slow.seconds = [9.0] * training.WARM_UP + [0.4, 0.2, 0.8]
    fast.seconds = [1.0] * training.WARM_UP + [0.2, 0.1, 0.4]
    speed_up = training.SpeedUp.of(slow, fast)
    assert speed_up.ratio == speed_up.low == speed_up.high == pytest.approx(2)
    assert speed_up.baseline_ms == pytest.approx(400)
    assert speed_up.ms == pytest.approx(200)


def test_plans_of_a_training_step_cover_three_products(stock):
    batch = data.Patches(0, batch=2, size=16)(0)
    step, parameters = miniature.training_step(pc.convert(stock, to="pallas_conv"))
    plans = list(pc.explain(step, parameters, *batch, device="h100"))
    layers = len(stock.encoder) * 2 + len(stock.down) + len(stock.up) + len(stock.decoder) + 4
    counts = {role: [plan.product.role for plan in plans].count(role) for role in ("fprop", "dgrad", "wgrad")}
    assert counts == {"fprop": layers, "dgrad": layers - 1, "wgrad": layers}  # the image itself needs no gradient
    lines = report.table(plans).splitlines()
    served = lines[1 : lines.index("  Why not a kernel:")]
    assert sum(int(line.split(" x ")[0]) for line in served) == len(plans)


def test_a_table_of_what_the_interpreter_runs(stock):
    """Products of every role that there is, whole backward passes among them."""
    assert set(report.ROLES) == set(OUTPUTS)
    batch = data.Patches(0, batch=2, size=8)(0)
    with pc.implementation(("interpret", "xla")):
        step, parameters = miniature.training_step(
            UNet(WIDTHS, layers=pc, compute_dtype="bfloat16", key=jax.random.key(0))
        )
        plans = list(pc.explain(step, parameters, *batch))
    assert {plan.product.role for plan in plans} == set(report.ROLES)
    assert sum(int(line.split(" x ")[0]) for line in report.table(plans).splitlines()[1:]) >= len(plans)


@pytest.mark.parametrize(("kernel_error", "passed"), [(0.019, True), (0.021, False), (float("nan"), False)])
def test_miniature_passes_within_twice_the_error_of_xla_only(stock, kernel_error, passed):
    batch = data.Patches(0, batch=2, size=8)(0)
    with pc.implementation(("interpret", "xla")):
        step, parameters = miniature.training_step(
            UNet(WIDTHS, layers=pc, compute_dtype="bfloat16", key=jax.random.key(0))
        )
        plans = list(pc.explain(step, parameters, *batch))
    assert miniature.Result(plans, kernel_error, 0.01).passed is passed
    assert not miniature.Result([], 0.0, 0.01).passed  # nothing launched

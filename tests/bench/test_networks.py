"""Training steps of networks: depths as published, every convolution converted, no time where results disagree."""

import collections
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pallas_conv as pc
from bench import networks
from workloads.models import DIVIDE, IMAGES, NETWORKS, Network
from workloads.models.common import scaled, supervised

every = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)

PUBLISHED = {  # parameters
    "resnet18": 11.69e6,
    "convnext": 28.59e6,
    "efficientnet": 5.29e6,
    "unet": 31.03e6,
    "unet3d": 19.07e6,
}


def has_shape(leaf):
    return isinstance(leaf, jax.ShapeDtypeStruct)


def built(network: Network, divide: int):
    return eqx.filter_eval_shape(lambda key: network.build(key, divide), jax.random.key(0))


def operands(network: Network, model):
    """The operands of a training step."""
    batch = jax.eval_shape(lambda key: network.batch(key, IMAGES), jax.random.key(0))
    return model, eqx.filter_eval_shape(network.start, model), *batch


def numbers(model):
    return sum(leaf.size for leaf in jax.tree.leaves(model) if has_shape(leaf))


@pytest.mark.parametrize("name", PUBLISHED)
def test_undivided_networks_have_as_many_parameters_as_published(name):
    assert numbers(built(NETWORKS[name], 1)) == pytest.approx(PUBLISHED[name], rel=1e-3)


def test_channels_are_divided_down_to_sixteen():
    assert [scaled(c, 4) for c in (1024, 80, 64, 32, 16)] == [256, 20, 16, 16, 16]
    assert [scaled(c, 1) for c in (1024, 16, 8)] == [1024, 16, 8]


@every
def test_a_step_of_the_converted_model_is_a_step_of_the_model(network):
    model = built(network, DIVIDE)
    converted = pc.convert(model)
    report = pc.convert_report(converted)
    assert len(report) > 0
    assert {row.status for row in report} == {"converted"}
    assert {row.status for row in pc.convert_report(model)} == {"would be converted"}
    for m in (model, converted):
        before = operands(network, m)
        *after, loss = eqx.filter_eval_shape(network.step, *before)
        assert (loss.shape, loss.dtype) == ((), jnp.float32)
        assert eqx.filter(after, has_shape) == eqx.filter(list(before[:2]), has_shape)


@every
def test_every_layer_is_in_the_step(network):
    model = pc.convert(built(network, DIVIDE))
    plans = list(pc.explain(network.step, *operands(network, model), device="cpu"))
    roles = collections.Counter(plan.product.role for plan in plans)
    unused = network.name == "wavenet"  # the residual of its last layer
    assert roles["wgrad"] >= len(pc.convert_report(model)) - unused  # a discriminator meets two batches
    assert 0 < networks.tolerance(plans) < 2e-3


# ---------------------------------------------------------------- measured


class Toy(eqx.Module):
    down: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d

    def __init__(self, key, divide):
        keys = jax.random.split(key)
        self.down = eqx.nn.Conv2d(2, 4, 3, 2, padding=1, key=keys[0])
        self.up = eqx.nn.ConvTranspose2d(4, 3, 2, 2, key=keys[1])

    def __call__(self, x):
        return self.up(jax.nn.silu(self.down(x)))


def toy_batch(key, images):
    return jax.random.normal(key, (images, 2, 8, 8)), jnp.zeros((images, 8, 8), int)


TOY = supervised("toy", Toy, toy_batch, optax.adam(1e-2))


@pytest.fixture
def toy_only(monkeypatch):
    monkeypatch.setattr(networks, "NETWORKS", {"toy": TOY})


def test_a_row(toy_only, tmp_path, capsys):
    out = tmp_path / "new" / "networks.json"
    assert networks.main([f"--out={out}", "--seconds=0"]) == 0
    document = json.loads(out.read_text())
    assert {"cpu", "threads", "jax", "equinox"} <= document["machine"].keys()
    (row,) = document["networks"]
    assert (row["name"], row["status"], row["parameters"]) == ("toy", "ok", 2 * 4 * 9 + 4 + 4 * 3 * 4 + 3)
    assert row["steps"] == networks.LEAST_STEPS
    assert min(row["stock_ms"], row["ours_ms"], *row["compile_s"].values()) > 0
    assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert {role: sum(counts.values()) for role, counts in row["products"].items()} == {
        "fprop": 2,
        "dgrad": 1,
        "wgrad": 2,
    }
    assert len(row["losses"]["stock"]) == len(row["losses"]["ours"]) == networks.GATED
    assert row["losses"]["stock"][0] > row["losses"]["stock"][-1]
    assert max(row["differences"].values()) <= row["tolerance"] < 1e-4
    assert f"{row['ratio']:.2f}x" in capsys.readouterr().out


class Faulty(eqx.Module):
    """A layer whose result is `factor` times too large."""

    layer: eqx.nn.Conv2d
    factor: float

    def __call__(self, x):
        return self.factor * self.layer(x)


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_no_time_is_reported_where_results_disagree(toy_only, monkeypatch, tmp_path, capsys, factor):
    original = networks.pc.convert
    broken = lambda model: eqx.tree_at(lambda m: m.down, original(model), Faulty(original(model).down, factor))
    monkeypatch.setattr(networks.pc, "convert", broken)
    out = tmp_path / "networks.json"
    assert networks.main([f"--out={out}", "--seconds=0"]) == 1
    (row,) = json.loads(out.read_text())["networks"]
    assert row["status"] == "wrong"
    assert not {"ratio", "stock_ms", "ours_ms"} & row.keys()
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.extended
def test_a_gan_learns_the_same_with_both():
    row = networks.measure(NETWORKS["dcgan"], seconds=0, divide=64, images=2, least_steps=1)
    assert row["status"] == "ok"
    assert np.isfinite(row["losses"]["ours"]).all()


def test_both_take_turns_at_going_first():
    order = []

    class Stub:
        def __init__(self, name):
            self.name, self.seconds = name, [1.0] * networks.GATED

        def advance(self, batch):
            order.append(self.name)
            self.seconds.append({"stock": 3.0, "ours": 2.0}[self.name])

    row = networks.race(Stub("stock"), Stub("ours"), (), seconds=0, least_steps=3)
    assert order == ["stock", "ours", "ours", "stock", "stock", "ours"]
    assert (row["steps"], row["ratio"], row["stock_ms"], row["ours_ms"]) == (3, 1.5, 3000, 2000)


def test_a_profile_names_every_product(toy_only, capsys):
    assert networks.main(["--profile=toy", "--seconds=0", "--every"]) == 0
    printed = capsys.readouterr().out
    assert "5 products" in printed
    for role in ("fprop", "dgrad", "wgrad"):
        assert f"1 x {role} " in printed

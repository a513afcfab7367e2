"""Networks on a GPU: four programs beside each other, what a wrong or failing one costs, and that published sizes fit."""

import types

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

from bench import gpu_networks, runner
from bench.runner import log
from compiled import aot
from pallas_conv.kernels.family import Facts
from workloads.models.common import Scale, supervised

pc_convert = gpu_networks.pc.convert


class Tiny(eqx.Module):
    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d

    def __init__(self, key, divide):
        keys = jax.random.split(key)
        self.first = eqx.nn.Conv2d(3, 16, 3, padding=1, key=keys[0])
        self.second = eqx.nn.Conv2d(16, 5, 3, padding=1, key=keys[1])

    def __call__(self, x):
        return self.second(jax.nn.relu(self.first(x)))


def photographs(key, images, side):
    return jax.random.normal(key, (images, 3, side, side)), jax.random.randint(key, (images, side, side), 0, 5)


TINY = supervised("tiny", Tiny, photographs, optax.sgd(0.1, momentum=0.9), Scale(2, 8))


class Changed(eqx.Module):
    """A converted model whose result, or whose gradient, is off."""

    model: eqx.Module
    change: object = eqx.field(static=True)

    def __call__(self, x):
        return self.change(self.model(x))


@jax.custom_vjp
def wrong_gradient(x):
    return x


wrong_gradient.defvjp(lambda x: (x, None), lambda _, dy: (1.05 * dy,))


def rows_of(monkeypatch, folder, convert=pc_convert, programs=("stock", "mosaic")):
    preferences = {impl: gpu_networks.PREFERENCES[impl] for impl in programs}
    monkeypatch.setattr(gpu_networks, "PREFERENCES", preferences)
    monkeypatch.setattr(gpu_networks, "MEASURED", {"tiny": TINY})
    monkeypatch.setattr(gpu_networks, "DRY", {"tiny": TINY.published})
    monkeypatch.setattr(gpu_networks.pc, "convert", convert)
    status = runner.main(gpu_networks.SCRIPT, ["--dry-run", "--in-process", f"--out={folder}", "--networks=tiny"])
    (file,) = folder.glob("*.jsonl")
    return status, {row["impl"]: row for row in log.read(file) if row["kind"] == "network"}


def test_four_programs_beside_each_other(monkeypatch, tmp_path, capsys):
    status, rows = rows_of(monkeypatch, tmp_path, programs=tuple(gpu_networks.PREFERENCES))
    assert status == 0
    assert list(rows) == ["stock", "lax", "auto", "mosaic"]
    for impl, row in rows.items():
        assert row["status"] == "ok"
        assert 0 < row["low"] <= row["ms"] <= row["high"]
        assert row["temp_bytes"] > 0
        assert row["products"] == (0 if impl == "stock" else 5)  # the first layer has no input gradient
    assert rows["stock"]["loss"] == pytest.approx(rows["auto"]["loss"], rel=1e-3)
    assert 0 <= rows["auto"]["update_difference"] <= rows["auto"]["update_bound"] < 0.05
    assert rows["auto"]["ratio"] == pytest.approx(rows["stock"]["ms"] / rows["auto"]["ms"])
    assert "NOT A GPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "which"), [(lambda y: 1.05 * y, "difference"), (wrong_gradient, "update_difference")]
)
def test_a_wrong_program_has_no_time(monkeypatch, tmp_path, change, which):
    status, rows = rows_of(monkeypatch, tmp_path, lambda model: Changed(pc_convert(model), change))
    assert status == 1
    assert rows["mosaic"]["status"] == "wrong"
    assert rows["mosaic"][which] > rows["mosaic"][which.replace("difference", "bound")]
    assert "ms" not in rows["mosaic"]
    assert rows["stock"]["ms"] > 0


def test_a_program_that_fails_costs_its_own_row(monkeypatch, tmp_path):
    def fails(y):
        raise RuntimeError("no room")

    status, rows = rows_of(monkeypatch, tmp_path, lambda model: Changed(pc_convert(model), fails))
    assert status == 1
    assert {impl: row["status"] for impl, row in rows.items()} == {"stock": "ok", "mosaic": "error"}
    assert "no room" in rows["mosaic"]["exception"]
    assert rows["stock"]["ms"] > 0


def test_after_a_hang_other_networks_go_without_kernels(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_networks, "lost", lambda context: {"mosaic"})
    status, rows = rows_of(monkeypatch, tmp_path)
    assert status == 0
    assert rows["mosaic"]["status"] == "skipped: kernels hung or crashed before"
    assert rows["stock"]["ms"] > 0


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"status": "hung", "impl": "mosaic"}, {"mosaic"}),
        ({"status": "ok", "impl": "mosaic"}, set()),
        ({"status": "hung", "impl": "auto"}, set()),
        ({"status": "crashed", "impl": "auto", "kernel": True}, {"auto", "mosaic"}),
    ],
)
def test_what_counts_as_a_hang(row, found):
    context = types.SimpleNamespace(log=types.SimpleNamespace(rows=[row, {"status": "ok"}]))
    assert gpu_networks.lost(context) == found


def test_a_network_that_hangs_names_all_its_kernels(monkeypatch):
    model = eqx.filter_eval_shape(gpu_networks.build, TINY)
    batch = jax.eval_shape(lambda: TINY.batch(jax.random.key(0), *TINY.published))
    sources = gpu_networks.steps_of(TINY, model)
    about = gpu_networks.of_kernels(sources["mosaic"].plans("h100", *batch))
    facts = [Facts.from_json(it) for of_family in about["several_facts"].values() for it in of_family]
    assert {it.code_path for it in facts} == set(about["code_paths"])
    assert about["several_facts"].keys() == {"dense", "wgrad"}
    assert about["kernel"]
    assert gpu_networks.of_kernels(sources["stock"].plans("h100", *batch)) == {}
    said = []
    found = types.SimpleNamespace(
        context=types.SimpleNamespace(alive=lambda **it: said.append(it)), kernels={"mosaic": about}
    )
    gpu_networks.Comparison.say(found, "mosaic")
    assert said == [{"impl": "mosaic", **about}]


def test_what_is_not_ours_is_measured_if_kernels_are_lost():
    (step,) = gpu_networks.steps(types.SimpleNamespace(networks="unet"))
    assert step.again


def test_a_network_that_is_not_known_is_named_before_a_worker_starts(capsys):
    with pytest.raises(SystemExit):
        runner.parse(gpu_networks.SCRIPT, ["--networks=unet,vgg"])
    assert "known are resnet50, unet, unet3d; unknown is vgg" in capsys.readouterr().err


def test_half_precision_keeps_float32_weights():
    model = eqx.filter_eval_shape(gpu_networks.build, TINY)
    images = jax.ShapeDtypeStruct((1, 3, 8, 8), "float32")
    program, logits, _ = eqx.filter_make_jaxpr(lambda model, x: jax.vmap(model)(x))(model, images)
    products = [eq for eq in program.eqns if eq.primitive.name == "conv_general_dilated"]
    assert {leaf.dtype for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.ShapeDtypeStruct)} == {
        jnp.dtype("float32")
    }
    assert [eq.outvars[0].aval.dtype for eq in products] == [jnp.bfloat16] * 2
    assert logits.dtype == jnp.float32


@pytest.mark.aot
@pytest.mark.extended
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", gpu_networks.MEASURED)
def test_published_batches_fit(name):
    """The batches fit several times over into the 59 GB that JAX takes of an H100: the library's workspace comes on top."""
    network = gpu_networks.MEASURED[name]
    model = eqx.filter_eval_shape(lambda: gpu_networks.build(network))
    batch = jax.eval_shape(lambda: network.batch(jax.random.key(0), *network.published))
    step = gpu_networks.steps_of(network, model)["mosaic"]
    found = gpu_networks.memory(step.compile(*batch, sharding=aot.sharding("h100")))
    assert 1e9 < sum(found.values()) < 59e9 / 3

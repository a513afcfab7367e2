"""Tests that `auto` trusts a kernel only where records say that it is right, and faster than the lax program beside it."""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc
from pallas_conv.dispatch import plan, record, trust
from pallas_conv.dispatch.record import Record, Source, Timing
from pallas_conv.kernels import digest, families, serve
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.target import from_device_kind, resolve
from pallas_conv.wanted import wanted
from tests.kernels.cases import product

H100 = resolve("h100")
PCIE = from_device_kind("NVIDIA H100 PCIe")
PRODUCT = product("fprop", 32, (128, 128), (28, 28), 3, 1, 1, bias=True, activation="relu")
LARGE = dataclasses.replace(PRODUCT, batch=64, in_channels=256, out_channels=256)
SILU = dataclasses.replace(PRODUCT, activation="silu")


SHIPPED_FOR_THIS_JAX = any(
    source.jax == jax.__version__ for path in record.SHIPPED.glob("*/*.json") for source in record.load(path).sources
)
FAMILY = serve.kernel(PRODUCT).family.name


def facts(p, target=H100):
    return serve.kernel(p, Gpu.of(target)).facts


def timing(p, kernel_us, lax_us, lax="stock"):
    return Timing(facts(p).series, facts(p).size, kernel_us, lax_us, lax)


def proven(*products, timings=(), **changes):
    """A record of this JAX and these kernels in which these products are right."""
    source = Source(jax.__version__, digest.code(FAMILY), "run")
    choice = digest.choice(FAMILY, H100.device_kind)
    found = Record(FAMILY, H100.device_kind, "9.0", "1.0", "2026-01-01", (source,), choice, {}, tuple(timings))
    for p in products:
        found = found.with_check(facts(p), right=True)
    return dataclasses.replace(found, **changes)


FAST = proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 20.0)])


def keep(found):
    path = record.users_own(found)
    record.save(found, path)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PALLAS_CONV_CACHE_DIR", str(tmp_path))
    trust._suggest_doctor.cache_clear()
    return tmp_path


def chosen(p, target=H100):
    return plan.plan(p, target, ("auto",))


def test_without_a_record_xla_serves_and_one_line_names_doctor(cache, caplog):
    with caplog.at_level(logging.INFO, logger="pallas_conv"):
        plans = [chosen(PRODUCT) for _ in range(3)]
    assert {p.implementation for p in plans} == {"xla"}
    assert "doctor" in plans[0].reasons[0]
    assert [r.levelname for r in caplog.records] == ["INFO"]
    assert "doctor" in caplog.text


def test_right_and_faster_is_taken_and_explained(cache):
    keep(FAST)
    assert chosen(PRODUCT).implementation == "mosaic"
    assert "2.00x the speed of 'stock'" in chosen(PRODUCT).source


def test_times_beside_another_lax_program_than_the_one_of_today_do_not_count(cache):
    keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 20.0, "matmul_per_tap")]))
    assert chosen(PRODUCT).implementation == "xla"
    assert "against the lax program 'stock'" in chosen(PRODUCT).reasons[0]


@pytest.mark.parametrize(("lax_us", "taken"), [(10.0, False), (10.4, False), (10.6, True)])
def test_a_kernel_must_be_faster_by_a_margin(cache, lax_us, taken):
    keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, lax_us)]))
    assert (chosen(PRODUCT).implementation == "mosaic") == taken
    if not taken:
        assert "margin of 5%" in chosen(PRODUCT).reasons[0]


@pytest.mark.parametrize("change", [{"choice": "another"}, {"device_kind": "NVIDIA H200"}])
@pytest.mark.parametrize(("lax_us", "taken"), [(11.0, False), (12.0, True)])
def test_times_of_other_tiles_or_another_kind_of_gpu_must_keep_a_wider_margin(cache, change, lax_us, taken):
    keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, lax_us)], **change))
    assert (chosen(PRODUCT).implementation == "mosaic") == taken


def test_times_of_this_kind_of_gpu_come_before_those_of_another(cache):
    keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 20.0)], device_kind="NVIDIA H200"))
    keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 5.0)]))
    assert "0.50x" in chosen(PRODUCT).reasons[0]


def test_the_nearest_size_counts_by_more_than_its_multiply_adds(cache):
    """A pointwise layer of many channels has the multiply-adds of a 3x3 one of few, and little else of it."""
    pointwise = product("fprop", 32, (384, 384), (28, 28), 1, bias=True, activation="relu")
    assert facts(pointwise).size.macs == facts(PRODUCT).size.macs
    half = dataclasses.replace(PRODUCT, batch=16)
    both = [timing(pointwise, 10.0, 1.0), timing(half, 10.0, 30.0)]
    for timings in (both, both[::-1]):
        keep(proven(PRODUCT, timings=timings))
        assert "3.00x" in chosen(PRODUCT).source


def test_a_nearer_time_counts_though_its_margin_is_wider(cache):
    keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 5.0)], device_kind="NVIDIA H200"))
    far = dataclasses.replace(PRODUCT, batch=8)
    keep(proven(PRODUCT, timings=[timing(far, 10.0, 20.0)]))
    assert "0.50x" in chosen(PRODUCT).reasons[0]


@pytest.mark.parametrize(("lax_us", "taken"), [(10.8, False), (11.0, True)])
def test_the_margin_grows_with_the_distance(cache, lax_us, taken):
    half = dataclasses.replace(PRODUCT, batch=16)
    assert 1 < facts(half).size.distance(facts(PRODUCT).size) < 2
    keep(proven(PRODUCT, timings=[timing(half, 10.0, lax_us)]))
    assert (chosen(PRODUCT).implementation == "mosaic") == taken


def test_no_tile_is_chosen_for_a_product_whose_kernel_is_not_faster(cache, monkeypatch):
    """A product whose kernel is not faster costs no choice of a tile, which takes a fifth of a second."""
    keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 5.0)]))
    monkeypatch.setattr(serve, "_chosen", None)
    assert "not faster" in chosen(PRODUCT).reasons[0]
    assert "no product near this one" in chosen(dataclasses.replace(PRODUCT, batch=1, in_channels=16)).reasons[0]


def test_a_size_far_away_says_nothing(cache):
    tiny = dataclasses.replace(PRODUCT, batch=1, in_channels=16, out_channels=16)
    keep(proven(PRODUCT, timings=[timing(tiny, 10.0, 20.0)]))
    assert "no product near this one" in chosen(PRODUCT).reasons[0]


def test_code_paths_and_epilogues_are_proven_apart_or_together(cache):
    """A path by any product that takes it, an epilogue by any product that has it."""
    assert facts(SILU).code_path == facts(PRODUCT).code_path
    other = product("fprop", 8, (64, 64), (40, 40), 1, bias=True, activation="silu")
    assert facts(other).code_path != facts(PRODUCT).code_path
    fast = [timing(PRODUCT, 10.0, 20.0)]
    keep(proven(PRODUCT, timings=fast))
    assert "no record of the epilogue 'bf16 bias_silu'" in chosen(SILU).reasons[0]
    keep(proven(other, timings=fast))
    assert "no record of the code path" in chosen(SILU).reasons[0]
    keep(proven(PRODUCT, other, timings=fast))
    assert chosen(SILU).implementation == "mosaic"


def test_what_was_found_wrong_is_not_taken_but_where_the_very_pair_is_right(cache):
    mixed = proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 20.0)]).with_check(facts(SILU), right=False)
    keep(mixed)
    assert chosen(PRODUCT).implementation == "mosaic"
    assert "found wrong" in chosen(SILU).reasons[0]
    gelu = dataclasses.replace(PRODUCT, activation="gelu")
    assert "found wrong" in chosen(gelu).reasons[0]  # the same code path
    keep(mixed.with_check(facts(SILU), right=True))  # once wrong, it stays so
    assert "found wrong" in chosen(SILU).reasons[0]


@pytest.mark.parametrize(
    "change",
    [
        {"capability": "10.0"},
        {"sources": (Source("0.0.1", digest.code(FAMILY), "run"),)},
        {"sources": (Source(jax.__version__, "0" * 12, "run"),)},
        {"timings": ()},
        {"checks": {}},
    ],
)
def test_records_of_other_sources_and_empty_ones_are_not_trusted(cache, change):
    keep(dataclasses.replace(FAST, **change))
    assert chosen(PRODUCT).implementation == "xla"


def test_records_of_another_family_do_not_count(cache):
    keep(dataclasses.replace(FAST, family="another"))
    assert chosen(PRODUCT).implementation == "xla"
    keep(FAST)
    keep(dataclasses.replace(FAST, family="another").with_check(facts(PRODUCT), right=False))
    assert chosen(PRODUCT).implementation == "mosaic"


def test_a_record_holds_for_every_source_that_compiles_to_the_same(cache):
    source = Source(jax.__version__, digest.code(FAMILY), "instructions")
    old = dataclasses.replace(FAST, sources=(Source("0.0.1", "0" * 12, "run"),))
    keep(old)
    assert chosen(PRODUCT).implementation == "xla"
    keep(old.with_source(source))
    assert chosen(PRODUCT).implementation == "mosaic"


def test_times_of_another_jax_must_keep_the_wider_margin(cache):
    """The kernels compile to the same, XLA may not."""
    now = Source(jax.__version__, digest.code(FAMILY), record.SAME_INSTRUCTIONS)
    for ran, taken in (("0.0.1", False), (jax.__version__, True)):
        source = Source(ran, "0" * 12, record.RAN)
        keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 11.0)], sources=(now, source)))
        assert (chosen(PRODUCT).implementation == "mosaic") == taken


@pytest.mark.parametrize("kind", [H100.device_kind, "NVIDIA H200"])
def test_no_record_overrules_what_another_found_wrong(cache, monkeypatch, tmp_path, kind):
    wrong = dataclasses.replace(FAST, evidence=("h100.jsonl",), device_kind=kind).with_check(
        facts(PRODUCT), right=False
    )
    shipped(monkeypatch, tmp_path / "shipped", wrong)
    keep(FAST)
    assert "found wrong" in chosen(PRODUCT).reasons[0]


def test_another_size_of_the_same_chip_is_trusted_by_its_capability(cache):
    """An H100 PCIe has fewer SMs, so other tiles may be chosen: those that are proven count."""
    keep(proven(PRODUCT, timings=[timing(PRODUCT, 10.0, 20.0)]))
    proof = trust.proofs(FAMILY, PCIE).look_up(facts(PRODUCT, PCIE), "stock")
    assert proof.trusted == (facts(PRODUCT, PCIE).code_path == facts(PRODUCT).code_path)


def shipped(monkeypatch, folder, found):
    folder.mkdir()
    monkeypatch.setattr(record, "SHIPPED", folder)
    record.save(found, folder / found.family / "h100.json")


def test_with_several_processes_only_shipped_records_count(cache, monkeypatch, tmp_path):
    keep(FAST)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert chosen(PRODUCT).implementation == "xla"
    shipped(monkeypatch, tmp_path / "shipped", FAST)
    assert chosen(PRODUCT).implementation == "xla"  # no hardware run behind it
    shipped(monkeypatch, tmp_path / "with_evidence", dataclasses.replace(FAST, evidence=("h100.jsonl",)))
    assert chosen(PRODUCT).implementation == "mosaic"


def test_what_the_user_did_not_check_falls_through_to_the_shipped_record(cache, monkeypatch, tmp_path):
    shipped(monkeypatch, tmp_path / "shipped", dataclasses.replace(FAST, evidence=("h100.jsonl",)))
    keep(proven())
    assert chosen(PRODUCT).implementation == "mosaic"
    keep(proven().with_check(facts(PRODUCT), right=False))
    assert "found wrong" in chosen(PRODUCT).reasons[0]


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps(FAST.to_json() | {"checks": {"path": True}})])
def test_a_broken_record_is_ignored_and_said_so(cache, caplog, text):
    path = keep(FAST)
    path.write_text(text)
    assert chosen(PRODUCT).implementation == "xla"
    assert path.name in caplog.text


@pytest.mark.aot
def test_auto_compiles_the_kernel_once_it_is_trusted(cache):
    from compiled import aot

    layer = pc.Conv2d(128, 128, 3, padding=1, activation="relu", dtype=jnp.bfloat16, key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((32, 128, 28, 28), jnp.bfloat16)
    name = "dense_fprop_2d_bf16_s1_bias_relu"
    assert name not in aot.compile_for("h100", jax.vmap(lambda x: layer(x)), x).as_text()
    keep(FAST)
    assert f"pallas_conv_{name}" in aot.compile_for("h100", jax.vmap(lambda x: layer(x)), x).as_text()
    assert name not in aot.compile_for("a100", jax.vmap(lambda x: layer(x)), x).as_text()


@pytest.mark.shipped
@pytest.mark.skipif(not SHIPPED_FOR_THIS_JAX, reason="the records that ship are of another JAX: see the test below")
def test_with_what_ships_auto_takes_kernels_on_hopper_and_nowhere_else(cache):
    """More on a kind of GPU that was timed than on another, for which they must have been faster by more."""
    products = dict.fromkeys(layer.product for layer in wanted().suite)
    suite = [p for p in products if families.serving(p) is DENSE][::4]  # each takes a while to choose a tile
    others = (p for p in products if families.serving(p) is not DENSE)
    assert all(chosen(p, resolve("h100")).implementation == "xla" for p in others)  # no record
    taken = {
        name: {p for p in suite if chosen(p, resolve(name)).implementation == "mosaic"}
        for name in ("h200", "h100", "a100", "b200", "cpu")
    }
    not_timed = dataclasses.replace(resolve("h200"), device_kind="NVIDIA H800")
    elsewhere = {p for p in suite if chosen(p, not_timed).implementation == "mosaic"}
    assert min(len(taken["h200"]), len(taken["h100"])) > len(suite) / 2
    assert set() < elsewhere < taken["h200"]
    assert not taken["a100"] | taken["b200"] | taken["cpu"]


@pytest.mark.shipped
@pytest.mark.skipif(SHIPPED_FOR_THIS_JAX, reason="the records that ship are of this JAX: see the test above")
def test_with_a_jax_that_no_record_is_of_auto_takes_no_kernel_and_says_so(cache):
    """Another JAX compiles the kernels to other instructions, which no hardware has run."""
    suite = list(dict.fromkeys(layer.product for layer in wanted().suite))[::4]
    for name in ("h200", "h100"):
        for found in (chosen(p, resolve(name)) for p in suite):
            assert found.implementation == "xla"
            assert f"no record of these {found.kernel.family.name} kernels on" in found.reasons[-1]
            assert f"with JAX {jax.__version__};" in found.reasons[-1]

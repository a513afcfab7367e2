"""When `auto` trusts a kernel: only where a record of this device, JAX and kernels says right and no slower."""

import json
import logging

import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc
from pallas_conv import doctor, plan, trust
from pallas_conv.kernels import choice
from pallas_conv.kernels.support import fingerprint
from pallas_conv.target import resolve

H100 = resolve("h100")
SIZE = doctor.Size(32, 128, 128, (28, 28))
RELU = doctor.Convolution("fprop", bias=True, activation="relu")
PRODUCT = doctor.problem("bfloat16", RELU, SIZE)
LARGE = doctor.problem("bfloat16", RELU, doctor.Size(64, 256, 256, (56, 56)))
PATHS = [choice.choose(p, 132).path for p in (PRODUCT, LARGE)]
VARIANT = "dense_fprop_2d_bf16_s1_bias_relu"


def timing(macs, kernel_us, lax_us, source="cupti"):
    return {"macs": macs, "kernel_us": kernel_us, "lax_us": lax_us, "lax": "stock", "source": source}


def record(**changes):
    timings = [timing(10**9, 10.0, 20.0), timing(10**11, 30.0, 20.0)]
    whole = {
        "device_kind": H100.device_kind,
        "jax": jax.__version__,
        "fingerprint": fingerprint(),
        "variants": {VARIANT: {"correct": True, "paths": PATHS, "timings": timings}},
    }
    return whole | changes


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PALLAS_CONV_CACHE_DIR", str(tmp_path))
    trust._suggest_doctor.cache_clear()
    return tmp_path


def test_without_a_record_xla_serves_and_one_line_names_doctor(cache, caplog):
    with caplog.at_level(logging.INFO, logger="pallas_conv"):
        chosen = [plan.plan(PRODUCT, H100, ("auto",)) for _ in range(3)]
    assert {p.implementation for p in chosen} == {"xla"}
    assert "doctor" in chosen[0].reasons[0]
    assert [r.levelname for r in caplog.records] == ["INFO"]
    assert "doctor" in caplog.text


def test_times_beside_another_lax_program_than_the_one_of_today_do_not_count(cache):
    old = record()
    for entry in old["variants"][VARIANT]["timings"]:
        entry["lax"] = "matmul_per_tap"
    trust.save(old)
    chosen = plan.plan(PRODUCT, H100, ("auto",))
    assert chosen.implementation == "xla"
    assert "against the lax program 'stock'" in chosen.reasons[0]


def test_a_record_is_trusted_where_it_was_no_slower_at_the_nearest_size(cache):
    trust.save(record())
    assert 3e9 < trust.useful_macs(PRODUCT) < 4e9
    chosen = plan.plan(PRODUCT, H100, ("auto",))
    assert (chosen.implementation, "2.00x" in chosen.source) == ("mosaic", True)
    slow = plan.plan(LARGE, H100, ("auto",))
    assert slow.implementation == "xla"
    assert "slower" in slow.reasons[0]
    silu = doctor.problem("bfloat16", RELU._replace(activation="silu"), SIZE)
    other = plan.plan(silu, H100, ("auto",))  # another epilogue is another variant
    assert other.implementation == "xla"
    assert "does not check" in other.reasons[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"device_kind": "NVIDIA H200"},
        {"jax": "0.0.1"},
        {"fingerprint": "0" * 12},
        {"variants": {VARIANT: {"correct": False, "paths": PATHS, "timings": [timing(10**9, 1.0, 2.0)]}}},
        {"variants": {VARIANT: {"correct": True, "paths": PATHS, "timings": []}}},
        {"variants": {VARIANT: {"correct": True, "paths": PATHS, "timings": [timing(10**9, 1.0, 2.0, "wall")]}}},
        {"variants": {VARIANT: {"correct": True, "paths": [], "timings": [timing(10**9, 1.0, 2.0)]}}},
        {"variants": {}},
    ],
)
def test_other_records_are_not_trusted(cache, changes):
    trust.save(record(**changes))
    assert plan.plan(PRODUCT, H100, ("auto",)).implementation == "xla"


def test_with_several_processes_only_shipped_records_count(cache, monkeypatch, tmp_path):
    trust.save(record())
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert plan.plan(PRODUCT, H100, ("auto",)).implementation == "xla"
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "h100.json").write_text(json.dumps(record()))
    monkeypatch.setattr(trust, "SHIPPED", shipped)
    assert plan.plan(PRODUCT, H100, ("auto",)).implementation == "xla"  # no hardware run behind it
    (shipped / "h100.json").write_text(json.dumps(record(evidence="h100.jsonl")))
    assert plan.plan(PRODUCT, H100, ("auto",)).implementation == "mosaic"


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps(record(variants={VARIANT: {}}))])
def test_a_broken_record_is_ignored_and_said_so(cache, caplog, text):
    path = trust.save(record())
    path.write_text(text)
    assert plan.plan(PRODUCT, H100, ("auto",)).implementation == "xla"
    assert path.name in caplog.text


@pytest.mark.aot
def test_auto_compiles_the_kernel_once_it_is_trusted(cache):
    from bench import aot

    layer = pc.Conv2d(128, 128, 3, padding=1, activation="relu", dtype=jnp.bfloat16, key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((32, 128, 28, 28), jnp.bfloat16)
    assert VARIANT not in aot.compile_for("h100", jax.vmap(lambda x: layer(x)), x).as_text()
    trust.save(record())
    assert f"pallas_conv_{VARIANT}" in aot.compile_for("h100", jax.vmap(lambda x: layer(x)), x).as_text()
    assert VARIANT not in aot.compile_for("a100", jax.vmap(lambda x: layer(x)), x).as_text()

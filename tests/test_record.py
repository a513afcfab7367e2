"""Records as files: what is written comes back, what is no record is refused by name."""

import dataclasses

import pytest

from pallas_conv.dispatch import record
from pallas_conv.dispatch.record import Program, Record, Source, Timing
from pallas_conv.kernels import serve
from pallas_conv.kernels.family import Facts, Size
from tests.kernels.cases import product

SIZE = Size(1e9, 1e6, 64, 64, 9)
FACTS = Facts("2d bf16", "bf16 bias", "fprop_2d_bf16_s1", SIZE)
PRODUCT = product("fprop", 2, (64, 64), (9, 9), 3)
KERNEL = serve.kernel(PRODUCT)
FULL = Record(
    KERNEL.family.name, "NVIDIA H100 80GB HBM3", "9.0", "580.1", "2026-11-26", (Source("0.11.2", "abc", "run"),), "def",
    {FACTS.code_path: {FACTS.epilogue: True}}, (Timing(FACTS.series, SIZE, 10.0, 20.0, "stock"),),
    (Program(PRODUCT, KERNEL.config.to_json(), 132, "123"),), ("bench/results/h100/gpu.jsonl",),
)  # fmt: skip


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "records" / "h100.json"
    record.save(FULL, path)
    assert record.load(path) == FULL
    assert KERNEL.family.config.from_json(record.load(path).programs[0].config) == KERNEL.config
    assert [p.name for p in path.parent.iterdir()] == ["h100.json"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"driver": 1}, "record.driver"),
        ({"extra": 1}, "extra"),
        ({"checks": {"2d bf16": {"bf16 bias": "yes"}}}, "record.checks.2d bf16.bf16 bias"),
        ({"sources": [{"jax": "0.11.2"}]}, "record.sources"),
        ({"timings": [{"series": "f", "size": [1], "kernel_us": 1, "lax_us": 1, "lax": "stock"}]}, "record.timings"),
    ],
)
def test_what_is_no_record_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        Record.from_json(FULL.to_json() | change)


def test_times_and_sizes_are_positive():
    never = dataclasses.replace(FULL, timings=(FULL.timings[0]._replace(kernel_us=0.0),))
    with pytest.raises(ValueError, match="positive"):
        Record.from_json(never.to_json())


def test_a_failed_check_stays_failed():
    wrong = FULL.with_check(FACTS, right=False)
    assert wrong.checks == {FACTS.code_path: {FACTS.epilogue: False}}
    assert wrong.with_check(FACTS, right=True).checks == wrong.checks
    assert FULL.checks == {FACTS.code_path: {FACTS.epilogue: True}}  # records do not change


def test_a_new_time_takes_the_place_of_the_old_one_of_the_same_product_and_program():
    again = FULL.with_timing(FULL.timings[0]._replace(kernel_us=5.0))
    assert [t.kernel_us for t in again.timings] == [5.0]
    other = FULL.with_timing(FULL.timings[0]._replace(lax="padded"))
    assert len(other.timings) == 2


def test_sources_are_listed_once():
    again = FULL.with_source(Source("0.11.2", "abc", "instructions"))
    assert again.sources == FULL.sources
    assert len(FULL.with_source(Source("0.12.0", "abc", "instructions")).sources) == 2


def test_files_of_users_are_named_by_family_device_jax_and_source(monkeypatch, tmp_path):
    monkeypatch.setenv("PALLAS_CONV_CACHE_DIR", str(tmp_path))
    own = record.users_own(FULL)
    assert (
        own.relative_to(record.users_folder()).as_posix() == f"{FULL.family}/nvidia-h100-80gb-hbm3_jax-0.11.2_abc.json"
    )
    assert record.file_name(FULL.device_kind) == "nvidia-h100-80gb-hbm3.json"


def test_a_family_has_its_own_files_of_which_the_users_come_last(monkeypatch, tmp_path):
    monkeypatch.setenv("PALLAS_CONV_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(record, "SHIPPED", tmp_path / "shipped")
    ships = tmp_path / "shipped" / FULL.family / "h100.json"
    for found, path in ((FULL, ships), (FULL, record.users_own(FULL))):
        record.save(found, path)
    other = dataclasses.replace(FULL, family="another")
    record.save(other, record.users_own(other))
    assert record.files(FULL.family, include_user=True) == [ships, record.users_own(FULL)]
    assert record.files(FULL.family, include_user=False) == [ships]
    assert record.files("another", include_user=True) == [record.users_own(other)]
    assert record.files("another", include_user=False) == []

"""Records made from rows of hardware runs, and back: every shipped one follows from its committed rows."""

import dataclasses
import json

import jax
import pytest

from bench import record as bench_record
from pallas_conv.dispatch import record
from pallas_conv.kernels import digest, families, serve
from pallas_conv.kernels.dense.plan import Config
from pallas_conv.kernels.gpu import Gpu
from tests.kernels.cases import product

SHIPPED = sorted(record.SHIPPED.glob("*/*.json"))
CONFIG = Config((1, 8, 8), 32, tile_k=32, stages=2, mma_warpgroups=1)
PRODUCT = product("fprop", 2, (32, 32), (9, 7), 3, 1, 1, bias=True)
HALO = dataclasses.replace(CONFIG, halo=True)
KIND = "NVIDIA H100 80GB HBM3"
DEVICE = {
    "kind": "device", "name": "device", "status": "ok", "platform": "gpu", "device_kind": KIND,
    "compute_capability": "9.0", "driver": "580.1", "jax": jax.__version__, "date": "2026-11-26",
    "code": {"dense": digest.code("dense")}, "choice": {"dense": digest.choice("dense", KIND)},
}  # fmt: skip


def facts_of(config, product=PRODUCT):
    return serve.kernel(product, config=config).facts


def path_of(config):
    return facts_of(config).code_path


def check(status="ok", config=CONFIG, kind="correctness", **more):
    known = {"family": "dense", "product": PRODUCT.to_json(), "config": config.to_json(), "num_sms": 132}
    facts = facts_of(config).to_json()
    return {"kind": kind, "name": "case/f", "status": status, "facts": facts, **known, **more}


def timed(status="ok", source="cupti", **more):
    times = {"impl": "ours", "source": source, "kernel_us": 10.0, "lax_us": 15.0, "lax": "stock"}
    return check(status, kind="time", **times | more)


def derived(*rows, device=DEVICE):
    (found,) = bench_record.derived({"bench/results/h100/gpu.jsonl": [device, *rows]})
    return found


def test_checks_and_timings_come_from_rows():
    found = derived(timed(), check(config=HALO), check("error"))
    assert found.family == "dense"
    assert found.checks == {path_of(CONFIG): {"bf16 bias": True}, path_of(HALO): {"bf16 bias": True}}
    ((timing),) = found.timings
    assert (timing.ratio, timing.lax, timing.size) == (1.5, "stock", families.size(PRODUCT))
    assert found.holds_for(jax.__version__, digest.code("dense"))
    assert found.evidence == ("bench/results/h100/gpu.jsonl",)
    assert found.date == "2026-11-26"


@pytest.mark.parametrize("status", ["wrong", "hung", "crashed"])
def test_what_was_wrong_once_stays_wrong_and_untimed(status):
    for rows in ((check(status), check()), (check(), check(status))):
        assert derived(*rows).checks == {path_of(CONFIG): {"bf16 bias": False}}
    assert derived(timed(status)).timings == ()


def test_what_was_lost_among_several_kernels_is_wrong():
    facts = facts_of(HALO).to_json()
    lost = {"kind": "time", "name": "case/fb", "status": "hung", "several_facts": {"dense": [facts]}}
    found = derived(check(), check(config=HALO), lost)
    assert found.checks[facts["code_path"]] == {"bf16 bias": False}
    assert found.checks[path_of(CONFIG)] == {"bf16 bias": True}
    assert derived(check(config=HALO), lost | {"status": "ok"}).checks == {facts["code_path"]: {"bf16 bias": True}}


@pytest.mark.parametrize("order", [1, -1])
def test_the_least_favourable_time_of_a_product_counts(order):
    rows = [timed(), timed(kernel_us=14.0), timed(kernel_us=5.0, today_us=12.0)]
    (found,) = derived(*rows[::order]).timings
    assert found.kernel_us == 14.0
    (tuned,) = derived(rows[2]).timings
    assert tuned.kernel_us == 12.0  # of the tile that was the choice then


def test_what_tuning_kept_under_an_earlier_choice_counts_where_nothing_was_timed_since():
    earlier = [DEVICE | {"choice": "0" * 12}, timed(timed=[], kernel_us=5.0, today_us=12.0), check(config=HALO)]
    files = {"tune.jsonl": earlier, "gpu.jsonl": [DEVICE, check()]}
    (found,) = bench_record.derived(files)
    assert found.choice == DEVICE["choice"]["dense"]
    assert len(found.checks) == 2
    assert [t.kernel_us for t in found.timings] == [5.0]
    files["gpu.jsonl"].append(timed(kernel_us=14.0))
    assert [t.kernel_us for t in bench_record.derived(files)[0].timings] == [14.0]
    files["tune.jsonl"][1].pop("timed")  # a time of the choice that was, which is not today's
    files["gpu.jsonl"].pop()
    assert bench_record.derived(files)[0].timings == ()


def test_rows_of_when_there_was_one_family_are_of_that():
    plain = DEVICE | {"code": DEVICE["code"]["dense"], "choice": DEVICE["choice"]["dense"]}
    rows = [timed(), check("hung", HALO), {"kind": "time", "name": "case/fb", "status": "crashed"}]
    rows[-1]["several_facts"] = {"dense": [facts_of(CONFIG).to_json()]}
    old = [{name: value for name, value in row.items() if name != "family"} for row in rows]
    old[-1]["several_facts"] = rows[-1]["several_facts"]["dense"]
    assert derived(*old, device=plain) == derived(*rows)


def test_the_former_name_of_a_series_is_read():
    new, old = timed(), timed()
    old["facts"] = {"family" if name == "series" else name: value for name, value in new["facts"].items()}
    lost = {"kind": "time", "name": "case/fb", "status": "hung", "several_facts": {"dense": [old["facts"]]}}
    assert derived(old) == derived(new)
    assert derived(old).timings[0].series == facts_of(CONFIG).series
    assert derived(check(config=HALO), lost).checks[path_of(CONFIG)] == {"bf16 bias": False}


def test_each_family_has_a_record_of_its_own():
    device = DEVICE | {"code": DEVICE["code"] | {"other": "1" * 12}, "choice": DEVICE["choice"] | {"other": "2" * 12}}
    lost = {"kind": "time", "name": "case/fb", "status": "hung", "several_facts": {"other": [facts_of(HALO).to_json()]}}
    dense, other = bench_record.derived({"gpu.jsonl": [device, check(), timed(family="other"), lost]})
    assert (dense.family, dense.checks, dense.timings) == ("dense", {path_of(CONFIG): {"bf16 bias": True}}, ())
    assert (other.family, other.sources[0].code, other.choice) == ("other", "1" * 12, "2" * 12)
    assert other.checks == {path_of(CONFIG): {"bf16 bias": True}, path_of(HALO): {"bf16 bias": False}}
    assert len(other.timings) == 1


def test_a_driver_without_a_name_makes_a_record_all_the_same():
    assert derived(check(), device=DEVICE | {"driver": None}).driver == "unknown"


def test_times_beside_each_lax_program_are_filed_under_its_name():
    found = derived(timed(lax_beside="padded", lax_beside_us=12.0))
    assert {timing.lax: timing.ratio for timing in found.timings} == {"stock": 1.5, "padded": 1.2}


@pytest.mark.parametrize("row", [timed(source="wall"), timed(lax_us=None), check()])
def test_only_times_of_the_device_beside_a_lax_program_count(row):
    assert derived(row).timings == ()


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([DEVICE | {"platform": "cpu"}, check()], "dry run"),
        ([check()], "no row says on which device"),
        ([DEVICE], "no kernel was checked"),
        ([DEVICE, DEVICE | {"code": "0"}, check()], "record them apart"),
        ([DEVICE, DEVICE | {"device_kind": "NVIDIA H200"}, check()], "record them apart"),
        ([DEVICE, check() | {"facts": {"code_path": 1}}], "row 2, facts"),
        ([DEVICE, check() | {"facts": facts_of(CONFIG).to_json() | {"family": "f"}}], "row 2, facts has both 'family'"),
    ],
)
def test_rows_that_prove_nothing_are_refused(rows, named):
    with pytest.raises(ValueError, match=named):
        bench_record.derived({"gpu.jsonl": rows})


def test_one_kernel_is_listed_for_each_code_path_and_epilogue_found_right():
    """Each of them is compiled when the record is renewed: an epilogue may change where the main loop does not."""
    relu = dataclasses.replace(PRODUCT, activation="relu")
    other = check() | {"facts": facts_of(CONFIG, relu).to_json(), "product": relu.to_json()}
    files = {"gpu.jsonl": [DEVICE, check("wrong", HALO), check(), check(), timed(), other]}
    (found,) = bench_record.derived(files)
    gpu = Gpu(132, KIND)
    assert bench_record.kernels(found, files) == [serve.kernel(p, gpu, CONFIG) for p in (PRODUCT, relu)]


def test_digests_are_only_made_of_the_source_that_ran():
    with pytest.raises(ValueError, match="check out the commit that ran"):
        bench_record.with_programs(derived(check(), device=DEVICE | {"code": {"dense": "0" * 12}}), [])


@pytest.mark.aot
def test_the_command_writes_what_auto_then_reads(tmp_path, monkeypatch, capsys):
    results, shipped = tmp_path / "bench" / "results", tmp_path / "records"
    monkeypatch.setattr(bench_record, "ROOT", tmp_path)
    monkeypatch.setattr(bench_record, "RESULTS", results)
    monkeypatch.setattr(record, "SHIPPED", shipped)
    (results / "h100").mkdir(parents=True)
    rows = results / "h100" / "gpu.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in (DEVICE, timed(), check("wrong", HALO))))
    assert bench_record.main([str(rows)]) == 0
    out = capsys.readouterr().out
    assert "2 code paths, 1 timings, 1 kernels" in out
    assert "WRONG: 2d bf16 padded 1x64pixels" in out
    found = record.load(shipped / "dense" / "nvidia-h100-80gb-hbm3.json")
    anew = bench_record.derived({"bench/results/h100/gpu.jsonl": bench_record.read(rows)})
    assert [dataclasses.replace(found, programs=())] == anew
    assert [(p.product, p.config) for p in found.programs] == [(PRODUCT, CONFIG.to_json())]
    elsewhere = tmp_path / "gpu.jsonl"
    elsewhere.write_text(rows.read_text())
    assert bench_record.main([str(elsewhere)]) == 1
    assert "below bench/results" in capsys.readouterr().err


def test_every_shipped_record_follows_from_its_committed_rows():
    """None is shipped before a hardware run; the test above shows that this one can fail."""
    for path in SHIPPED:
        found = record.load(path)
        files = {name: bench_record.read(bench_record.ROOT / name) for name in found.evidence}
        (anew,) = (it for it in bench_record.derived(files) if it.family == found.family)
        for source in found.sources:
            anew = anew.with_source(source)
        assert dataclasses.replace(found, programs=()) == anew, path.name

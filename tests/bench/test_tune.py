"""Tuning: candidates differ, what is kept is fastest and right, rows become tiles and records. Nothing is timed here."""

import json
import pickle
import types

import pytest

from bench import products, record, runner
from bench.correctness import SMALL
from bench.runner import Built, Skipped, log
from bench.tune import __main__ as command
from bench.tune import differing, measure, tiles
from bench.tune.differing import MOST, OF_DENSE, candidates, differences
from bench.tune.measure import GAIN, Device, Wanted
from pallas_conv.kernels import choice, digest, serve, tuned
from pallas_conv.kernels.dense import DENSE, search
from pallas_conv.kernels.dense.legal import illegal
from pallas_conv.kernels.dense.plan import Config, Problem
from pallas_conv.kernels.gpu import ANY_HOPPER, Gpu
from pallas_conv.target import resolve
from pallas_conv.verify import timing
from pallas_conv.wanted import wanted
from workloads.cases import suite
from workloads.configured import product

KIND = "NVIDIA H100 80GB HBM3"
SUITE = {f"{case.name}/{d}": product for case in suite() for d, product in case.products().items()}
PRODUCT = SUITE["resnet50_c2/f"]
GPU = Gpu.of(resolve("h100"))
H100 = Device(resolve("h100"), GPU, dry=False)


# ------------------------------------------------------------ candidates


@pytest.mark.parametrize("name", ["resnet50_c2/f", "wavenet_d512/d", "resnet50_c3_s2/f"])
def test_candidates_are_todays_choice_and_others_that_differ(name):
    product = SUITE[name]
    problem, found = Problem.of(product), candidates(product, ANY_HOPPER)
    today, *others = found
    assert today.config == serve.choose(product)
    assert today.differs == ()
    assert len({it.config for it in found}) == len(found) == MOST
    assert all(illegal(problem, it.config) is None for it in found)
    assert all(it.differs == differences(today.config, it.config) != () for it in others)
    assert len({f for it in others for f in it.differs}) >= 4  # so that a model wrong about one of them is found out


def test_a_feature_that_is_tried_is_tried_by_the_best_that_has_it_otherwise():
    problem, found = Problem.of(PRODUCT), candidates(PRODUCT, ANY_HOPPER)
    today = found[0].config
    works = {cfg: DENSE.work(problem, cfg, ANY_HOPPER) for cfg in search.candidates(problem) if cfg != today}
    ranked = differing._ranked(works, ANY_HOPPER)
    best = next(cfg for cfg in ranked if OF_DENSE["warpgroups"](cfg) != OF_DENSE["warpgroups"](today))
    assert best in [it.config for it in found]


def test_a_tuned_choice_is_tried_beside_the_models(monkeypatch):
    model = choice.best(DENSE, Problem.of(PRODUCT), ANY_HOPPER)
    other = candidates(PRODUCT, ANY_HOPPER)[2].config
    monkeypatch.setattr(serve, "choose", lambda *_: other)
    found = candidates.__wrapped__(PRODUCT, ANY_HOPPER)
    assert [it.config for it in found[:2]] == [other, model]


def test_slots_and_staging_buffers_are_traded():
    stem = SUITE["resnet50_stem/f"]
    kept = {"im2col": True, "resident": True, "mma_warpgroups": 1, "ctas_per_sm": 2}
    today = Config((1, 16, 8), 64, 32, halo=True, stages=4, **kept)
    depths = list(differing._depths(Problem.of(stem), today, ANY_HOPPER))
    assert depths
    assert all(differences(today, cfg) == ("depth",) for cfg in depths)
    assert not any(cfg.stages <= today.stages and cfg.epi_stages <= today.epi_stages for cfg in depths)


# ------------------------------------------------------------ order, programs


def test_two_dimensional_products_come_first_and_long_ones_before_short():
    names = ["wavenet_d512/f", "resnet50_c2/f", "i3d/f", "unet_mid/f"]
    found = measure.ordered([Wanted(name, SUITE[name]) for name in names], H100)
    assert [it.name for it in found] == ["unet_mid/f", "resnet50_c2/f", "i3d/f", "wavenet_d512/f"]


def test_the_least_time_is_that_of_work_or_traffic():
    assert measure.least_us(SUITE["unet_mid/f"], H100) == pytest.approx(326, rel=0.02)  # 309 GFLOP at 949 TFLOP/s
    assert measure.least_us(SUITE["wavenet_d512/f"], H100) == pytest.approx(16.8, rel=0.1)


def test_a_product_is_a_step_a_candidate_and_one_that_times_them():
    steps = measure.steps(Wanted("c2", PRODUCT), H100)
    assert [s.kind for s in steps] == ["tune"] * MOST + ["tuned"]
    kernels = [p for p in steps[-1].programs if p.kernel]
    assert [s.programs[0] for s in steps[:-1]] == kernels
    for program in kernels:  # another process can make it
        assert pickle.loads(pickle.dumps(program.make)).args == program.make.args
    about = kernels[1].make().about
    assert about["config"] == candidates(PRODUCT, GPU)[1].config.to_json()
    assert about["rank"] == 1


def test_where_too_few_candidates_differ_a_step_is_skipped(monkeypatch):
    monkeypatch.setattr(measure, "candidates", lambda *_: candidates(PRODUCT, GPU)[:2])
    with pytest.raises(Skipped, match="no more than 2 candidates differ"):
        measure._candidate(PRODUCT, 2, H100)


# ------------------------------------------------------------ what is kept


def timings(**ms):
    return {name.removeprefix("_"): timing.Timing(v, v, v, v, 9, "cupti") for name, v in ms.items()}


def right(*ranks):
    return {rank: candidates(PRODUCT, ANY_HOPPER)[rank].config for rank in ranks}


def row_of(ranks, **ms):
    return measure.tuned(PRODUCT, H100.target, ANY_HOPPER, right(*ranks), timings(**ms))


def test_the_fastest_is_kept_if_it_gains_enough():
    row = row_of((0, 1, 2), stock=0.12, best=0.11, _0=0.10, _1=0.09, _2=0.11)
    assert row["config"] == right(1)[1].to_json()
    assert row["today"] == right(0)[0].to_json()
    assert (row["kernel_us"], row["lax_us"], row["stock_us"], row["today_us"]) == pytest.approx((90, 110, 120, 100))
    assert row["gain"] == pytest.approx(10 / 9)
    assert [it["us"] for it in row["timed"]] == pytest.approx([100, 90, 110])
    assert row["source"] == "cupti"


def test_the_program_that_auto_takes_beside_kernels_is_told_by_its_name():
    volumes = SUITE["nnunet_mid/w"]
    configs = {rank: candidates(volumes, ANY_HOPPER)[rank].config for rank in (0, 1)}
    times = timings(stock=0.12, beside=0.115, _0=0.10, _1=0.09)
    row = measure.tuned(volumes, H100.target, ANY_HOPPER, configs, times)
    assert (row["lax"], row["lax_us"]) == ("stock", pytest.approx(120))
    assert (row["lax_beside"], row["lax_beside_us"]) == ("depth_to_batch_wgrad", pytest.approx(115))
    assert "lax_beside" not in row_of((0, 1), stock=0.12, _0=0.10, _1=0.09)


def test_todays_choice_is_kept_if_another_is_hardly_faster():
    row = row_of((0, 1), stock=0.12, _0=0.10, _1=0.10 / GAIN + 1e-5)
    assert row["config"] == row["today"] == right(0)[0].to_json()
    assert row["kernel_us"] == pytest.approx(100)
    assert row["lax_us"] == pytest.approx(120)  # auto's lax program is stock's


def test_the_fastest_is_kept_if_todays_choice_is_wrong():
    row = row_of((1, 2), stock=0.12, _1=0.2, _2=0.15)
    assert row["config"] == right(2)[2].to_json()
    assert "gain" not in row


def times_of(rows, monkeypatch, said=None):
    """The programs that the last step of a product times after earlier rows, and its row."""
    said = [] if said is None else said
    steps, timed = measure.steps(Wanted("c2", PRODUCT), H100), []

    def measured(programs, operands, rounds):
        timed.extend(programs)
        return timings(**{f"_{name}": 0.1 for name in programs})

    monkeypatch.setattr(timing, "measure", measured)
    monkeypatch.setattr(timing, "copies", lambda nbytes: 1)
    context = types.SimpleNamespace(
        dry=False, seed=1, alive=lambda **about: said.append(about), log=types.SimpleNamespace(rows=rows),
        compiled=lambda program: Built(lambda *_: (), 0.0, program.make().about if program.kernel else {}),
    )  # fmt: skip
    return timed, list(steps[-1].work(context))


def test_only_what_was_found_right_is_timed(monkeypatch):
    configs = [it.config.to_json() for it in candidates(PRODUCT, GPU)]
    said = [("c2", "ok", 0), ("c2", "wrong", 1), ("c2", "ok", 3), ("another", "ok", 2), ("c2", "hung", 4)]
    rows = [{"kind": "tune", "name": n, "status": s, "rank": r, "config": configs[r]} for n, s, r in said]
    said = []
    timed, (row,) = times_of([*rows, {"kind": "tune", "name": "c2", "status": "skipped: x"}], monkeypatch, said)
    kernels = [products.about(serve.kernel(PRODUCT, GPU, right(rank)[rank])) for rank in (0, 3)]
    assert said == [{"kernel": True, **products.several(kernels)}]  # all of them, should one hang
    assert said[0]["several_facts"]
    assert set(timed) >= {"stock", "0", "3"}
    assert not {"1", "2", "4"} & set(timed)
    assert row["config"] == configs[0]


def test_where_nothing_was_right_nothing_is_timed(monkeypatch):
    with pytest.raises(Skipped, match="no candidate was found right"):
        times_of([], monkeypatch)


def test_the_right_result_is_made_after_the_candidates(monkeypatch):
    order = []
    step = measure.steps(Wanted("c2", PRODUCT), H100)[0]

    def held(*_):
        raise Skipped("held")

    monkeypatch.setattr(measure, "hold", held)
    call = lambda program: lambda *_: order.append(program.name) or ()
    context = types.SimpleNamespace(
        seed=1, alive=lambda **_: None, launch=lambda program, *_: call(program)(),
        compiled=lambda program: Built(call(program), 0.0, {}),
    )  # fmt: skip
    with pytest.raises(Skipped, match="held"):
        list(step.work(context))
    assert [name for name in order if "poison" not in name] == ["c2 operands", "c2 candidate 0", "c2 xla"]


# ------------------------------------------------------------ tiles, records, of made-up rows

DEVICE = {
    "kind": "device", "name": "device", "status": "ok", "platform": "gpu", "device_kind": KIND, "compute_capability": "9.0",
    "sms": GPU.num_sms, "driver": "1", "jax": "0.11.2", "date": "2026-01-01", "commit": "made up",
    "code": runner.device.code(), "choice": {"dense": digest.choice("dense", KIND)},
}  # fmt: skip


def made_up(**ms):
    ranks = sorted(int(name[1:]) for name in ms if name.startswith("_"))
    row = {"kind": "tuned", "name": "resnet50_c2/f", "status": "ok"} | row_of(ranks, **ms)
    return [DEVICE, row]


def tile_of(rows, **others):
    return [tiles.row(it) for it in tiles.timed({"rows": rows, **others})]


def test_a_tile_where_the_fastest_gains_enough_on_the_model():
    (tile,) = tile_of(made_up(stock=0.12, _0=0.10, _1=0.09))
    assert tile == tuned.Row(KIND, GPU.num_sms, "dense", PRODUCT, right(1)[1])
    assert tile_of(made_up(stock=0.12, _0=0.10, _1=0.098)) == [None]
    assert tile_of(made_up(stock=0.12, _0=0.10, _1=0.11)) == [None]


def test_no_tile_where_the_model_has_come_to_choose_it(monkeypatch):
    monkeypatch.setattr(choice, "best", lambda *_: right(1)[1])
    assert tile_of(made_up(stock=0.12, _0=0.10, _1=0.09)) == [None]


def test_the_last_rows_of_a_product_count():
    earlier, later = made_up(stock=0.12, _0=0.10, _1=0.05), made_up(stock=0.12, _0=0.10, _1=0.10)
    assert tile_of(earlier, later=later) == [None]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda device, row: [row], "no row says on which device"),
        (lambda device, row: [device | {"platform": "cpu"}, row], "dry run"),
        (lambda device, row: [device | {"code": "other"}, row], "other kernels"),
        (
            lambda device, row: [device, row | {"timed": [{"config": {}, "us": 1}]}],
            "resnet50_c2/f must have the fields",
        ),
    ],
)
def test_rows_that_say_nothing_of_these_kernels_are_refused(change, why):
    with pytest.raises(ValueError, match=why):
        tiles.timed({"rows": change(*made_up(stock=0.12, _0=0.10))})


def test_times_by_a_poor_clock_make_no_tile():
    device, row = made_up(stock=0.12, _0=0.10, _1=0.05)
    assert tiles.timed({"rows": [device, row | {"source": "batches"}]}) == []


def test_the_command_writes_the_table_and_leaves_what_it_knows_nothing_of(tmp_path, capsys):
    table, file = tmp_path / "tiles.json", tmp_path / "tune.jsonl"
    other = SUITE["resnet50_c4/f"]
    before = [
        tuned.Row(KIND, GPU.num_sms, "dense", other, serve.choose(other)),
        tuned.Row(KIND, GPU.num_sms, "dense", PRODUCT, right(2)[2]),
        tuned.Row("NVIDIA H200", GPU.num_sms, "dense", PRODUCT, right(2)[2]),
    ]
    for gain, expected in ((1.2, right(1)[1]), (1.0, None)):
        tuned.write_tiles(before, table)
        rows = made_up(stock=0.12, _0=0.10, _1=0.10 / gain)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert tiles.main([str(file), "--table", str(table)]) == 0
        found = {(r.device_kind, r.product): r.config for r in tuned.load_tiles(table)}
        assert found.get((KIND, PRODUCT)) == expected
        assert len(found) == (3 if expected else 2)
    assert "0 of 1 products tuned, 2 rows as they were" in capsys.readouterr().out
    file.write_text(json.dumps(DEVICE) + "\n")
    assert tiles.main([str(file), "--table", str(table)]) == 1
    assert "no product was timed by CUPTI" in capsys.readouterr().err


def test_a_record_says_how_fast_todays_choice_is():
    rows = made_up(stock=0.12, best=0.11, _0=0.10, _1=0.09)
    (found,) = record.derived({"rows": rows})
    (timed,) = found.timings
    assert (timed.kernel_us, timed.lax_us, timed.lax) == (pytest.approx(100), pytest.approx(110), "stock")
    assert found.checks


# ------------------------------------------------------------ the command


def test_products_are_those_that_are_wanted_each_once_and_those_of_networks_last():
    options = types.SimpleNamespace(products="wanted", cases="", dry_run=False)
    found = [it.product for it in command._wanted(options, H100)]
    assert len(set(found)) == len(found)
    of_suite = {layer.product for layer in wanted().suite}
    assert set(found) == of_suite | {use.product for use in wanted().networks}
    assert set(found[: len(of_suite)]) == of_suite


def test_what_earlier_rows_have_timed_is_not_tuned_again(tmp_path):
    file = tmp_path / "tune.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in made_up(stock=0.12, _0=0.10)))
    assert command._done(str(file)) == {PRODUCT}
    file.write_text(json.dumps(DEVICE | {"code": "other"}) + "\n")
    with pytest.raises(ValueError, match="rows of other kernels"):
        command._done(str(file))
    with pytest.raises(ValueError, match="there is no missing"):
        command._done("missing")


def test_rows_that_cannot_be_resumed_are_refused_before_a_worker_starts(capsys):
    with pytest.raises(SystemExit):
        runner.parse(command.SCRIPT, ["--resume=missing"])
    assert "argument --resume: 'missing' cannot be used: there is no missing" in capsys.readouterr().err


def test_the_summary_names_gains_first():
    rows = made_up(stock=0.12, _0=0.10, _1=0.09)
    slower = rows[1] | {"name": "slower", "gain": 1.0, "config": rows[1]["today"]}
    _, first, second, *_ = command.told([rows[0], slower, rows[1]]).splitlines()
    assert first.split()[:5] == ["resnet50_c2/f", "120.0", "120.0", "100.0", "90.0"]
    assert second.endswith("as today")
    assert command.told([rows[0]]).startswith("nothing was timed")


def test_dry_run_and_resumed(tmp_path, capsys):
    words = ["--dry-run", "--in-process", f"--out={tmp_path}", f"--cache={tmp_path}", "--cases=1d_causal"]
    assert runner.main(command.SCRIPT, words) == 0
    (file,) = tmp_path.glob("*.jsonl")
    rows = log.read(file)
    checks = [r for r in rows if r["kind"] == "tune"]
    assert [(r["rank"], r["status"]) for r in checks] == [(0, "ok"), (1, "ok")]
    assert Config.from_json(checks[1]["config"]) != Config.from_json(checks[0]["config"])
    assert all(r["error"] <= r["bound"] for r in checks)
    assert rows[-1]["status"] == measure.NO_TIME
    assert "nothing was timed" in capsys.readouterr().out
    causal = next(c for c in SMALL if c.name == "small_1d_causal")
    done = tmp_path / "done.rows"
    timed = {"kind": "tuned", "status": "ok", "product": causal.products()["f"].to_json()}
    done.write_text(json.dumps(timed) + "\n")
    options = runner.parse(command.SCRIPT, [*words, f"--resume={done}"])
    assert command.steps(options) == []


@pytest.mark.parametrize("role", ["fprop", "wgrad"])
def test_other_numbers_of_packed_groups_are_tried(role):
    asked = product(role, 2, (32 * 4, 32 * 16), (28, 28), 3, 1, 1, groups=32)
    tried = candidates(asked, ANY_HOPPER)
    assert len({found.config.count for found in tried}) > 1
    assert any("count" in found.differs for found in tried)
    assert {"count", "tile_n"} < set(differing.features(tried[0].config))

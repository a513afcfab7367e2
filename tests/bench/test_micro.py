"""The micro-kernels compute what they should and compile for a GPU; constants come of rows as they ought to."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import record, runner
from bench.micro import __main__ as command
from bench.micro import constants, kernels, measure, stopwatch
from bench.micro.question import CHECKED, Sizes
from bench.micro.questions import Multiply, questions
from compiled import aot
from pallas_conv.kernels import chips, mosaic
from pallas_conv.kernels.gpu import H100_SMS, HOPPER
from pallas_conv.verify import timing

H100, TINY = Sizes(H100_SMS, dry=False), Sizes(2, dry=True)
FIRST = {}  # question of each kernel
for _question in questions(H100):
    FIRST.setdefault(_question.kernel, _question.name)
FIRST |= {"images": "boxes_images", "multicast": "multicast", "one_warp": "issue_4_by_one_warp"}
FIRST["multiply"] = "wgmma_bf16_2x128x128_beside_tma"


def every(sizes):
    """The default run takes one of each kernel, the extended one all."""
    marks = lambda q: () if q.name in FIRST.values() else pytest.mark.extended
    return [pytest.param(q, id=q.name, marks=marks(q)) for q in questions(sizes)]


@pytest.mark.aot
@pytest.mark.parametrize("question", every(H100))
def test_compiles_for_hopper(question):
    source = measure._source(question.name, H100)
    _, used = aot.resources("h100", source.function, *source.shapes)
    assert used.spills == 0
    assert used.smem_bytes <= HOPPER.smem_bytes
    assert "serializ" not in used.log  # which ptxas says of wgmma that it cannot overlap
    assert "%globaltimer_lo" in used.ptx


def computed(question):
    """The plan, operands and result of a question under the interpreter, which looks for races."""
    rng = np.random.default_rng(0)
    operands = [np.asarray(rng.standard_normal(s.shape), s.dtype) for s in question.shapes]
    plan = question.runs[-1].plan(CHECKED)
    result, watch = mosaic.run_interpreted(jax.jit(question.build(interpret=True)), plan, *operands, detect_races=True)
    return plan, operands, np.asarray(result), np.asarray(watch)


@pytest.mark.parametrize("question", every(TINY))
def test_computes_what_it_should(question):
    plan, operands, result, watch = computed(question)
    assert question.right(plan, operands, result)
    assert not watch.any()  # the interpreter has no time
    assert not question.right(plan, operands, np.zeros_like(result))
    other = plan + np.array([1, 0, 0, 0], np.int32) * (plan[:, :1] > 0)
    assert not question.right(other, operands, result) or question.kernel == "tiles"  # all tiles of which are alike


def test_idle_kernels_hand_on_what_they_get():
    x = jnp.arange(stopwatch.THREADS, dtype="int32")
    for it in measure.CHAINS:
        source = measure._chained(it._replace(length=2), TINY)
        assert (np.asarray(source.function(x)) == np.asarray(x) + (0 if it.ours else 2)).all()


def test_boxes_are_visited_in_order_and_around_again():
    assert kernels.visited(np.array([5, 3, 2, 8])) == [3, 5, 7, 3, 5]
    x = np.arange(24).reshape(4, 6)
    np.testing.assert_array_equal(kernels.cut(x, (2, 3), 3), [[15, 16, 17], [21, 22, 23]])


def test_launches_of_what_l2_cannot_hold_cannot_be_held_by_it():
    """The shorter one reads more than 50 MiB, too: else it would find in L2 what it read the last time."""
    of_dram = {"dram", "dram_one_sm", "latency_dram", "latency_images", "latency_spatial"}
    runs = {r.name: r for q in questions(H100) for r in q.runs}
    for name in of_dram | {"boxes_images", "boxes_mixed", "boxes_spatial"}:
        plan = runs[name].plan(runs[name].count // 4)
        assert len({at for row in plan for at in kernels.visited(row)}) * runs[name].facts["nbytes"] > 50 * 2**20, name
    of_l2 = [name for name in runs if name.startswith(("l2_", "latency_l2")) and "mib" not in name]
    for name in of_l2:
        plan = runs[name].plan(64)
        assert len({at for row in plan for at in kernels.visited(row)}) * runs[name].facts["nbytes"] < 20 * 2**20, name


def test_questions_and_rows_have_names_of_their_own():
    asked = questions(H100)
    runs = [run.name for q in asked for run in q.runs]
    assert len({q.name for q in asked}) == len(asked)
    assert len(set(runs)) == len(runs)
    assert [q.name for q in questions(TINY)] == [q.name for q in asked]


# ------------------------------------------------------------ values


def test_a_value_comes_of_the_difference_of_two_launches(monkeypatch):
    """10 us a launch, 0.5 us a repetition, at 1.5 GHz."""
    (run,) = next(q for q in questions(H100) if q.name == "multicast").runs
    ms = lambda count: 1e-3 * (10 + 0.5 * count)
    watch = lambda count: np.full((H100_SMS, 2, 128), 0) + (np.array([[750 * count], [500 * count]]))

    def call(plan, x):
        return x, watch(int(plan[0, 0]))

    def timed(programs, operands, rounds):
        counts = {name: program(*operands[0])[1][0, 1, 0] / 500 for name, program in programs.items()}
        return {n: timing.Timing(ms(c), ms(c), ms(c), 1.0, 9, "cupti") for n, c in counts.items()}

    monkeypatch.setattr(timing, "measure", timed)
    row = measure.timed(run, call, (jnp.zeros(1),))
    assert row["us"] == pytest.approx(0.5)
    assert row["gigahertz"] == pytest.approx(1.5)
    assert row["clocks"] == row["clocks_inside"] == pytest.approx(750)
    assert row["value"] == pytest.approx(128 * 128 / 750)
    assert (row["unit"], row["source"]) == ("B/clk/SM", "cupti")


def test_a_launch_more_is_that_of_a_chain():
    of = lambda ms, wall: timing.Timing(ms, ms, ms, wall, 9, "cupti")
    chain = measure.CHAIN
    found = {"ours_1": of(0.002, 0.010), f"ours_{chain}": of(0.1, 0.010 + 0.003 * (chain - 1))}
    found |= {"xla_1": of(0.001, 0.010), f"xla_{chain}": of(0.1, 0.010 + 0.0025 * (chain - 1))}
    rows = {row["name"]: row["value"] for row in measure.launch_rows(found)}
    assert rows == pytest.approx({"launch": 2, "launch_next_ours": 3, "launch_next_xla": 2.5})
    assert set(rows) == measure.launch_names()


def test_clock_and_rate_of_a_long_load():
    it = Multiply(128, 128, 2, 128)
    watch = np.zeros((H100_SMS, 2, 128), np.int32)
    watch[:, 0], watch[:, 1] = 1_200_000, 1_000_000
    clock, rate = measure.sustained_rows(it, 1000, watch)
    assert clock["value"] == pytest.approx(1.2)
    assert rate["value"] == pytest.approx(H100_SMS * it.flops * 1000 / 1e-3 / 1e12)


# ------------------------------------------------------------ constants, of made-up rows

KIND = "NVIDIA H100 80GB HBM3"
SOFTWARE = dict.fromkeys(("jax", "driver", "code", "choice", "commit"), "made up")
DEVICE = SOFTWARE | {
    "kind": "device",
    "name": "device",
    "status": "ok",
    "platform": "gpu",
    "device_kind": KIND,
    "sms": H100_SMS,
}


def made_up():
    """Rows such as a chip would give whose constants are those of `CHIP`."""
    values = {
        "l2_distinct": 30.0, "l2_shared": 50.0, "l2_shared_by_4": 40.0, "l2_one_sm": 50.0, "l2_multicast": 55.0,
        "l2_of_24_mib": 29.0, "l2_of_32_mib": 28.0, "l2_of_40_mib": 20.0, "l2_of_48_mib": 12.0,
        "dram": 2.9, "dram_one_sm": 35.0, "boxes_images": 2.0, "boxes_mixed": 2.4, "boxes_spatial": 2.5,
        "latency_images": 1300.0, "latency_spatial": 1200.0, "issue_1": 100.0, "issue_4": 220.0, "hand_over": 75.0,
        "hand_over_in_cluster": 240.0, "chunk_64": 200.0, "chunk_128": 240.0, "chunk_64_one_buffer": 290.0,
        "chunk_64_done": 840.0, "rows_128_bytes": 0.4, "rows_64_bytes": 0.6, "rows_32_bytes": 0.55,
        "latency_l2": 600.0, "latency_dram": 1000.0, "blocks_one_an_sm": 600.0, "blocks_two_an_sm": 610.0,
        "tile_with_2_slots": 9600.0, "tile_with_8_slots": 9000.0, "launch": 1.5, "launch_next_xla": 2.0,
        "launch_next_ours": 2.1, "sustained_rate_bf16": 700.0, "sustained_clock_bf16": 1.4, "sustained_rate_tf32": 300.0,
        "sustained_clock_tf32": 1.4,
    }  # fmt: skip
    clocks = {"wgmma_bf16_1x64x32": 800.0, "wgmma_bf16_1x64x32_beside_tma": 860.0, "wgmma_bf16_2x128x128": 1060.0}
    rows = []
    for question in questions(H100):
        for run in question.runs:
            took = clocks.get(run.name, 1080.0)
            value = values.get(run.name, 0.95)
            rows.append(
                {"name": run.name, "value": value, "clocks": took, "gigahertz": 1.7, "unit": run.unit, **run.facts}
            )
    rows += [{"name": name, "value": values[name], "unit": ""} for name in sorted(constants.names()) if name in values]
    rows = list({row["name"]: row for row in reversed(rows)}.values())
    return [DEVICE, *({"kind": "micro", "status": "ok", "source": "cupti"} | row for row in rows)]


CHIP = {
    "clock": 1.7, "tensor_efficiency": 0.95, "l2_clk": 30, "l2_merge": 0.25, "port_clk": 55, "tma_rows": 0.6, "dram_tbs": 2.9,
    "dram_sm_clk": 35, "l2_mb": 32, "release": 35, "release_remote": 200, "issue_step": 60, "issue_copy": 40,
    "chunk_element": 2.5, "chunk_fixed": 160, "store_read": 250, "store_ack": 800, "launch": 2550, "xla_pass": 3400,
    "image_dram": 0.8, "image_latency": 100, "smem_clk": 8 * 64 * 1.5 * 128 / 800,
    "smem_writes": 60 * (8 * 64 * 1.5 * 128 / 800) / (120 * 128),
    "lat_l2": 600 - 1024 / 55 - 40 - 40, "lat_dram": 1000 - 1024 / 55 - 40 - 40,
}  # fmt: skip


def test_every_constant_that_rows_tell():
    entry, missing = constants.measured({"rows": made_up()}, chips.load(chips.CHIPS))
    power = {name: entry.constants.pop(name) for name in ("power_cap", "power_cap_tf32")}
    assert entry.constants == pytest.approx(CHIP, rel=1e-3)
    assert (entry.device_kind, entry.num_sms, entry.evidence) == (KIND, H100_SMS, "rows")
    assert {"wake", "flops_clk", "issue_mma", "mma_drain", "cluster_skew"} <= missing.keys()
    assert not missing.keys() & CHIP.keys()
    free = 0.95 * 4096 * H100_SMS * 1.7e-3  # TFLOP/s that the clock would allow
    assert (700**-8.0 - free**-8.0) ** (-1 / 8) == pytest.approx(power["power_cap"], rel=1e-3)
    assert power["power_cap_tf32"] == pytest.approx(300, rel=0.02)


def test_where_power_is_no_limit_its_constant_is_far_away():
    rows = [r | ({"value": 900.0} if r["name"] == "sustained_rate_bf16" else {}) for r in made_up()]
    entry, _ = constants.measured({"rows": rows}, chips.load(chips.CHIPS))
    assert entry.constants["power_cap"] == pytest.approx(1800)


def test_what_was_not_measured_stays_nominal_and_is_named():
    rows = [r for r in made_up() if r["name"] not in ("l2_shared", "boxes_images", "issue_4")]
    entry, missing = constants.measured({"rows": rows}, chips.load(chips.CHIPS), without=["tma_rows"])
    assert not {"l2_merge", "image_dram", "issue_copy", "issue_step", "tma_rows", "wake"} & entry.constants.keys()
    assert missing["l2_merge"] == "no row l2_shared"
    assert missing["tma_rows"] == "left out"
    assert missing["wake"] == "not measured"
    assert entry.constants["lat_l2"] == pytest.approx(600 - 1024 / 55 - 45 - 40, rel=1e-3)  # by the nominal copy


@pytest.mark.parametrize("source", ["wall", "batches"])
def test_times_by_a_poor_clock_do_not_count(source):
    rows = [r | ({"source": source} if r["name"] == "dram" else {}) for r in made_up()]
    entry, missing = constants.measured({"rows": rows}, chips.load(chips.CHIPS))
    assert "dram_tbs" not in entry.constants
    assert missing["dram_tbs"] == "no row dram"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda rows: rows[1:], "no row says on which device"),
        (lambda rows: [DEVICE | {"platform": "cpu"}, *rows[1:]], "dry run"),
        (lambda rows: [*rows, DEVICE | {"device_kind": "NVIDIA H200"}], "several devices"),
        (lambda rows: rows[:1], "nothing was measured"),
        (lambda rows: [*rows, rows[1] | {"name": "no_such_row"}], "another version"),
        (lambda rows: [r | ({"value": -1.0} if r["name"] == "dram" else {}) for r in rows], "rates above zero"),
    ],
)
def test_what_measures_nothing_is_refused(change, why):
    with pytest.raises(ValueError, match=why):
        constants.measured({"rows": change(made_up())}, chips.load(chips.CHIPS))


def test_only_what_was_measured_can_be_left_out():
    with pytest.raises(ValueError, match="no such constants"):
        constants.measured({"rows": made_up()}, chips.load(chips.CHIPS), without=["no_such_constant"])


def test_the_command_writes_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    file, table = tmp_path / "micro.jsonl", tmp_path / "chips.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in made_up()))
    before = chips.load(chips.CHIPS)
    chips.write(before._replace(measured=(chips.Measured("another", 114, {"clock": 1.0}, "x"),)), table)
    for _ in range(2):  # an entry of the same device is replaced
        assert constants.main([str(file), "--chips", str(table)]) == 0
    written = chips.load(table)
    assert [e.device_kind for e in written.measured] == ["another", KIND]
    assert written.nominal == before.nominal
    assert written.measured[1].evidence == "micro.jsonl"
    assert "wake stays nominal: not measured" in capsys.readouterr().out
    assert constants.main([str(tmp_path / "micro.jsonl"), "--chips", str(table), "--without", "nothing"]) == 1


def test_the_summary_has_values_beside_the_nominal_ones():
    text = command.told([*made_up(), {"kind": "micro", "name": "multicast", "status": "hung", "exception": "killed"}])
    assert len(text) < 11_000
    line = next(line for line in text.splitlines() if line.startswith("l2_clk"))
    assert line.split() == ["l2_clk", "30", f"{chips.chips()[0].l2_clk:.4g}"]
    assert "two blocks an SM take 1.02 times as long as one: they share it" in text
    assert "eight slots hide 54% of an epilogue of 1120 clk" in text
    assert text.splitlines()[-1] == "BAD  micro multicast: hung killed"


def test_a_kernel_that_is_wrong_is_not_timed(tmp_path, monkeypatch):
    questions_ = [dataclasses.replace(q, right=lambda *_: False) for q in questions(TINY) if q.name == "hand_over"]
    monkeypatch.setattr(measure, "questions", lambda sizes: questions_)
    status, rows = dry(tmp_path, "--ask=^hand_over$")
    assert status == 1
    assert [r["status"] for r in rows if r["kind"] == "micro"] == ["wrong"]


def dry(folder, *words):
    status = runner.main(command.SCRIPT, ["--dry-run", "--in-process", f"--out={folder}", f"--cache={folder}", *words])
    (file,) = folder.glob("*.jsonl")
    return status, [json.loads(line) for line in file.read_text().splitlines()]


def test_dry_run(tmp_path, capsys):
    status, rows = dry(tmp_path, "--ask=^(rows_32|hand_over$|launches|sustained_.*bf16)")
    assert status == 0
    said = {r["name"]: r["status"] for r in rows if r["kind"] == "micro" and not r["status"].startswith("skipped")}
    assert said == {"rows_32_bytes": "ok", "hand_over": "ok", "launches": "ok"}
    assert not any("value" in r for r in rows)
    assert "nothing was timed" in capsys.readouterr().out
    assert {it.name for it in measure.LONG} <= {q.name for q in questions(H100)}

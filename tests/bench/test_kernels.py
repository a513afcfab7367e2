"""The plans of the suite: the multiply-adds that the kernel executes beside those that are useful, and what is printed."""

import functools
import json

import pytest

from bench import kernels
from pallas_conv.kernels import serve
from pallas_conv.kernels.dense import DENSE, work
from pallas_conv.kernels.dense.plan import Problem
from tests.kernels import cases
from workloads.served import served

SERVED = served(DENSE)


@functools.cache
def plan(name):
    return kernels.plan(SERVED[name])


# More than 1.15 multiply-adds are executed for a useful one, because a tensor core takes 16 channels.
FEW_CHANNELS = {
    "resnet50_stem/f": 1.6,  # 7 taps of 3 channels of 32
    "deepspeech2/f": 1.6,  # 11 taps of 1 channel of 16, 81 rows in tiles of 8
    "dcgan_t_last/f": 1.4,  # 4 taps of 3 output channels, of 16
    "dcgan_t_last/d": 1.4,  # 4 taps of 3 channels of 16
    "jax31662/f": 1.8,  # 9 taps of 1 output channel, of 16
    "jax31662/d": 5.4,  # 3 taps of 1 channel of 16
}


@pytest.mark.parametrize("name", SERVED)
def test_hardly_anything_is_multiplied_in_vain(name):
    executed = plan(name)["executed_by_useful"]
    if name in FEW_CHANNELS:
        assert min(SERVED[name].in_channels, SERVED[name].out_channels) < 16
        assert 1.15 < executed <= FEW_CHANNELS[name]
    else:
        assert executed <= 1.15


# The ratio above counts taps over padding as useful. Where they are not counted, tiles that lie across a border count for more.
ACROSS_BORDERS = {
    "aspp_d12/f": 1.27,  # taps 12 pixels apart on 33: a third of them over padding
    "resnet50_c2_f32/f": 1.18, "resnet50_c2_f32/d": 1.18,  # 1.143 for 56 pixels in tiles of 64, times the border
    "resnet50_c5/f": 1.23, "resnet50_c5/d": 1.23,  # 7 pixels a side, 560 channels for 512: fastest on an H200 all the same
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, p in SERVED.items() if min(p.in_channels, p.out_channels) >= 64])
def test_of_multiply_adds_that_read_the_input_hardly_one_is_in_vain(name):
    """Counted by brute force, without the plan's taps and phases."""
    product = SERVED[name]
    executed = work.executed_macs(Problem.of(product), serve.choose(product))
    ratio = executed / cases.useful(product)
    assert 1 <= ratio <= ACROSS_BORDERS.get(name, 1.15)
    assert name not in ACROSS_BORDERS or ratio > 1.15


def test_no_plan_waits_for_halos_in_two_slots():
    """A ring of two slots with halos kept an H200's tensor cores busy two thirds of the time: loads and products take turns."""
    plans = {name: serve.choose(product) for name, product in SERVED.items()}
    assert not [name for name, cfg in plans.items() if cfg.halo and cfg.stages == 2 and not cfg.resident]
    assert any(cfg.halo and cfg.stages > 2 for cfg in plans.values())


@pytest.mark.parametrize("name", SERVED)
def test_no_plan_beats_its_floor(name):
    """The modelled time of a plan is at least its floor, to rounding. The floor counts skipped taps, too."""
    skipped = min(1.0, plan(name)["executed_by_useful"])
    assert plan(name)["predicted_us"] >= 0.95 * skipped * plan(name)["floor_us"] > 0
    assert plan(name)["least_predicted_us"] <= plan(name)["predicted_us"] <= plan(name)["most_predicted_us"]


def test_the_table(tmp_path, capsys):
    chart = tmp_path / "chart.png"
    assert kernels.main(["--only=re", f"--out={tmp_path / 'rows.jsonl'}", f"--chart={chart}"]) == 0
    assert chart.read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in rows)
    without = {row["name"]: "reasons" in row for row in rows}
    assert without["replknet_31/b"]
    assert not without["resnet50_c2/f"]
    assert not without["resnext_g32/f"]


@pytest.mark.aot
def test_a_compiled_row(capsys):
    assert kernels.main(["--only=hifigan_up/f", "--compile"]) == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if "hifigan_up/f" in line)
    registers = int(row[3])
    assert 32 < registers <= 168

"""The plans of the suite: the multiply-adds that the kernel executes beside those that are useful, and what is printed."""

import json

import pytest

from bench import kernels
from pallas_conv.kernels import support

SERVED = {name: product for name, product in kernels.products() if not support.reasons(product, support.CAPABILITY)}
PLANS = {name: kernels.plan(product) for name, product in SERVED.items()}

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
    executed = PLANS[name]["executed_by_useful"]
    if name in FEW_CHANNELS:
        assert min(SERVED[name].in_channels, SERVED[name].out_channels) < 16
        assert 1.15 < executed <= FEW_CHANNELS[name]
    else:
        assert executed <= 1.15


@pytest.mark.parametrize("name", SERVED)
def test_no_plan_beats_its_floor(name):
    """To rounding, and but where taps over padding are skipped: the floor counts all."""
    skipped = min(1.0, PLANS[name]["executed_by_useful"])
    assert PLANS[name]["predicted_us"] >= 0.95 * skipped * PLANS[name]["floor_us"] > 0


def test_the_table(tmp_path, capsys):
    chart = tmp_path / "chart.png"
    assert kernels.main(["--only=resne", f"--out={tmp_path / 'rows.jsonl'}", f"--chart={chart}"]) == 0
    assert chart.read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in rows)
    assert {row["name"]: "reasons" in row for row in rows}["resnext_g32/f"]
    assert not {row["name"]: "reasons" in row for row in rows}["resnet50_c2/f"]


@pytest.mark.aot
def test_a_compiled_row(capsys):
    assert kernels.main(["--only=hifigan_up/f", "--compile"]) == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if "hifigan_up/f" in line)
    registers = int(row[3])
    assert 32 < registers <= 168

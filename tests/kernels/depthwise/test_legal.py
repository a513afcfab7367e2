"""Configurations that the depthwise kernel refuses, and the reasons it gives."""

import pytest

from pallas_conv.kernels.depthwise.legal import illegal
from pallas_conv.kernels.depthwise.plan import Config, Problem
from tests.kernels.depthwise.proving import depthwise


def problem(role="fprop", channels=64, size=(20, 40), kernel=3, **changes):
    return Problem.of(depthwise(role, 2, channels, size, kernel, padding=1, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tile_pixels": (1, 16)}, "(planes, rows, columns)"),
        ({"tile_pixels": (1, 2, 24)}, "a multiple of 16"),
        ({"tile_pixels": (1, 0, 16)}, "(planes, rows, columns)"),
        ({"chunk_rows": 0}, "at least 1"),
        ({"strip_tiles": 0}, "at least 1"),
        ({"channel_warpgroups": 0}, "at least 1"),
        ({"column_warpgroups": 0}, "at least 1"),
        ({"ctas_per_sm": 3}, "must be 1 or 2"),
        ({"chunk_rows": 3}, "must divide the 2 input rows"),
        ({"chunk_rows": 3, "problem": {"stride": 2}}, "must divide the 4 input rows"),
        ({"tile_pixels": (1, 2, 272)}, "at most 256 long"),
        ({"tile_pixels": (1, 2, 128), "column_warpgroups": 2}, "at most 256 long"),
        ({"channel_warpgroups": 8}, "at most 256 long"),
        ({"problem": {"dilation": (1, 130), "size": (20, 400)}}, "at most 256 long"),
        ({"stages": 3}, "must be 4, which a tile reads, to 32"),
        ({"stages": 33}, "to 32"),
        ({"tile_pixels": (1, 32, 128), "stages": 32, "problem": {"kernel": (1, 9)}}, "at most 2048"),
        (
            {"tile_pixels": (1, 4, 16), "channel_warpgroups": 4, "stages": 10, "problem": {"kernel": 7}},
            "registers must be at most 96",
        ),
        (
            {"tile_pixels": (1, 1, 16), "stages": 9, "ctas_per_sm": 2, "problem": {"kernel": 9}},
            "registers must be at most",
        ),
        ({"tile_pixels": (1, 2, 128), "stages": 30}, "smem_bytes"),
        (
            {"problem": {"role": "bwd", "outputs": ("dx", "dw")}},
            "1 consumers on an SM must be at least 2 in a backward pass",
        ),
        (
            {"column_warpgroups": 2, "problem": {"role": "bwd", "outputs": ("dx", "dw"), "activation": "silu"}},
            "cfg.column_warpgroups=2 must be 1",
        ),
    ],
)
def test_illegal_configurations_say_why(changes, words):
    asked = problem(**changes.pop("problem", {}))
    cfg = Config(**{"tile_pixels": (1, 2, 16), **changes})
    assert words in illegal(asked, cfg)


def test_legal():
    assert illegal(problem(), Config((1, 2, 16))) is None

"""Configurations that the weight-gradient kernel refuses, and the reasons it gives."""

import pytest

from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.wgrad.legal import illegal
from pallas_conv.kernels.wgrad.plan import Config, Problem
from tests.kernels.products import product

VOLUME = {"size": (9, 9, 9)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transposed": True, "problem": {"stride": 2}}, "several phases"),
        ({"problem": {"input_dilation": 2}}, "several phases"),
        ({"space_to_depth": True}, "takes a stride"),
        ({"space_to_depth": True, "problem": {"stride": 2, "dilation": 2}}, "without dilations"),
        ({"space_to_depth": True, "transposed": True, "problem": {"stride": 2}}, "several phases"),
        ({"row_outputs": 0}, "at least 1"),
        ({"row_outputs": 2}, "a multiple of so many outputs"),
        ({"row_outputs": 2, "problem": {"size": (9, 10), "groups": 2}}, "takes one group"),
        ({"row_outputs": 2, "problem": {"size": (9, 12), "dilation": 2}}, "without dilations"),
        ({"problem": {"outputs": ("dw", "db")}}, "cfg.dy_registers=False must be True"),
        (
            {"dy_registers": True, "transposed": True, "problem": {"outputs": ("dw", "db")}},
            "cfg.transposed=True must be False",
        ),
        ({"step_pixels": (1, 64)}, "a multiple of 64 pixels"),
        ({"step_pixels": (1, 8, 12)}, "a multiple of 64 pixels"),
        ({"step_pixels": (512, 1, 1)}, "at most 256 along each"),
        ({"step_pixels": (1, 16, 16), "dy_registers": True}, "of 64 or 128 pixels"),
        ({"step_pixels": (2, 8, 8), "problem": {"batch": 3, "models": 2}}, "of one example"),
        ({"step_pixels": (2, 8, 8), "problem": {"batch": 3, "dtype": "float32"}}, "of one example"),
        ({"step_pixels": (2, 1, 4, 8), "problem": VOLUME | {"stride": 2}}, "five dimensions"),
        ({"step_pixels": (2, 1, 4, 8), "problem": VOLUME | {"groups": 2}}, "five dimensions"),
        ({"step_pixels": (64, 1, 1), "halo": True}, "must be of one image"),
        ({"step_pixels": (2, 4, 8), "halo": True}, "must be of one image"),
        ({"step_pixels": (1, 16, 4), "halo": True}, "multiples of 8 pixels"),
        ({"halo": True, "problem": {"stride": 2}}, "no stride"),
        ({"halo": True, "problem": {"kernel": (1, 3)}}, "several taps"),
        ({"step_pixels": (1, 256, 8), "halo": True}, "at most 256 long"),
        ({"tile_n": 32}, "tile_n"),
        ({"tile_n": 128}, "tile_n"),
        ({"tile_n": 8, "dy_registers": True}, "tile_n"),
        ({"multicast": "w"}, "multicast"),
        ({"taps_per_tile": 0}, "at least 1"),
        ({"channel_loads": 0}, "at least 1"),
        ({"m_warpgroups": 0}, "at least 1"),
        ({"n_warpgroups": 0}, "at least 1"),
        ({"m_warpgroups": 4}, "at most 3"),
        ({"m_warpgroups": 2, "n_warpgroups": 2, "taps_per_tile": 2}, "at most 3"),
        ({"n_warpgroups": 2, "taps_per_tile": 3}, "divide"),
        ({"ctas_per_sm": 3}, "ctas_per_sm"),
        ({"taps_per_tile": 10}, "must be at most 9"),
        ({"taps_per_tile": 4, "halo": True}, "must be at most 3"),
        ({"step_pixels": (1, 3, 64), "multicast": "dy", "problem": {"channels": (128, 64)}}, "must be even"),
        ({"multicast": "x"}, "two tiles to share with"),
        ({"multicast": "dy"}, "two tiles to share with"),
        ({"multicast": "x", "m_warpgroups": 2, "problem": {"channels": (64, 128)}}, "two tiles to share with"),
        ({"stages": 1}, "stages"),
        ({"stages": 33}, "stages"),
        ({"split_k": 0}, "split_k"),
        ({"split_k": 3}, "at most the 2 steps"),
        ({"problem": {"channels": (2**16, 2**16)}}, "elements"),
        ({"taps_per_tile": 5}, "registers of sums must be at most 144"),
        ({"taps_per_tile": 4, "stages": 2, "ctas_per_sm": 2}, "registers of sums must be at most 98"),
        (
            {"taps_per_tile": 3, "stages": 2, "ctas_per_sm": 2, "dy_registers": True},
            "registers of sums must be at most 66",
        ),
        ({"stages": 30}, "smem_bytes"),
        ({"stages": 8, "ctas_per_sm": 2}, "smem_bytes"),
    ],
)
def test_illegal_configurations_say_why(changes, words):
    problem = Problem.of(product(role="wgrad", **changes.pop("problem", {})))
    cfg = Config(**{"step_pixels": (1, 8, 8), **changes})
    assert words in illegal(problem, cfg)


def test_a_load_that_is_shared_is_even_with_its_halo():
    problem = Problem.of(product(role="wgrad", channels=(64, 128), kernel=(2, 3)))
    assert "must be even" in illegal(problem, Config((1, 8, 8), halo=True, stages=2, multicast="x"))
    assert illegal(problem, Config((1, 8, 8), halo=True, stages=2)) is None


def test_a_cluster_needs_as_many_multiprocessors():
    problem, cfg = Problem.of(product(role="wgrad", channels=(64, 128))), Config((1, 8, 8), multicast="x")
    assert illegal(problem, cfg, Gpu(2)) is None
    assert illegal(problem, cfg, Gpu(1)) == "cfg.cluster=2 must be at most gpu.num_sms=1"


def test_steps_times_parts_are_numbers_of_32_bits():
    problem = Problem.of(product(role="wgrad", batch=2**20, size=(3, 3), channels=(1, 1)))
    assert "times t.cfg.split_k" in illegal(problem, Config((1, 8, 8), split_k=2**12))

"""Configurations that the dense kernel refuses, and the reasons it gives."""

import pytest

from pallas_conv.kernels.dense.legal import illegal
from pallas_conv.kernels.dense.plan import Config, Problem
from pallas_conv.kernels.gpu import Gpu
from tests.kernels.products import product


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tile_pixels": (1, 8, 4)}, "tile_pixels"),
        ({"tile_pixels": (1, 64)}, "tile_pixels"),
        ({"tile_n": 24}, "tile_n"),
        ({"tile_pixels": (1, 8, 16), "tile_n": 144}, "tile_n"),
        ({"tile_k": 128}, "tile_k"),
        ({"stages": 30}, "smem_bytes"),
        ({"stages": 33, "tile_n": 16, "tile_k": 16, "mma_warpgroups": 1}, "stages"),
        (
            {
                "im2col": True,
                "problem": {"channels": (1, 64), "kernel": 31, "padding": 15, "batch": 64, "size": (1024, 1024)},
            },
            "made channels",
        ),
        ({"split_k": 2}, "steps over 64 channels"),
        ({"split_k": 0}, "split"),
        ({"stages": 1}, "stages"),
        ({"halo": True, "tile_pixels": (2, 8, 4)}, "one image"),
        ({"halo": True, "problem": {"stride": 3}}, "whole strides apart"),
        ({"halo": True, "problem": {"input_dilation": 2}}, "same number of taps"),
        (
            {
                "halo": True,
                "resident": True,
                "tile_n": 32,
                "tile_k": 16,
                "problem": {"channels": (16, 32), "size": (70, 70), "kernel": (41, 1)},
            },
            "registers",
        ),
        ({"mma_warpgroups": 3}, "mma_warpgroups"),
        ({"resident": True, "problem": {"channels": (64, 80)}}, "output channels"),
        ({"resident": True, "problem": {"groups": 2}}, "one group"),
        ({"resident": True, "split_k": 2, "tile_k": 32}, "one part"),
        ({"resident": True, "taps_per_step": 2, "tile_k": 16}, "one tap"),
        ({"resident": True, "cluster": 2}, "no cluster"),
        ({"taps_per_step": 0}, "taps"),
        ({"epi_stages": 17, "tile_n": 16, "problem": {"residual": True}}, "barriers"),
        ({"im2col": True, "problem": {"role": "dgrad", "stride": 2}}, "one output phase"),
        ({"col2im_dims": 3}, "of 2"),
        ({"col2im_dims": 1, "problem": {"stride": 2}}, "without a stride"),
        ({"col2im_dims": 1, "split_k": 2}, "split"),
        ({"col2im_dims": 2, "im2col": True}, "im2col"),
        ({"col2im_dims": 2, "problem": {"batch": 2**16, "size": (32, 32)}}, "sums"),
        ({"tile_pixels": (2, 1, 4, 8), "problem": {"size": (9, 9, 9), "stride": 2}}, "one image"),
        ({"tile_pixels": (2, 1, 4, 8), "split_k": 2, "tile_k": 32, "problem": {"size": (9, 9, 9)}}, "one image"),
    ],
)
def test_illegal_configurations_say_why(changes, words):
    problem = Problem.of(product(**changes.pop("problem", {})))
    cfg = Config(**{"tile_pixels": (1, 8, 8), "tile_n": 64, **changes})
    assert words in illegal(problem, cfg)


def test_a_cluster_needs_as_many_multiprocessors():
    problem, cfg = Problem.of(product()), Config((1, 8, 8), 64, cluster=2)
    assert illegal(problem, cfg, Gpu(2)) is None
    assert illegal(problem, cfg, Gpu(1)) == "cfg.cluster=2 must be at most gpu.num_sms=1"

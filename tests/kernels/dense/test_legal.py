"""Which configurations the dense kernel refuses, and what it says of them."""

import pytest

from pallas_conv.kernels.dense.legal import illegal
from pallas_conv.kernels.dense.plan import Config, Problem
from pallas_conv.kernels.gpu import Gpu
from tests.kernels.products import product


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"box": (1, 8, 4)}, "box"),
        ({"box": (1, 64)}, "box"),
        ({"bn": 24}, "bn"),
        ({"box": (1, 8, 16), "bn": 144}, "bn"),
        ({"bk": 128}, "bk"),
        ({"stages": 30}, "smem_bytes"),
        ({"stages": 33, "bn": 16, "bk": 16, "consumers": 1}, "stages"),
        (
            {
                "unfold": True,
                "problem": {"channels": (1, 64), "kernel": 31, "padding": 15, "batch": 64, "size": (1024, 1024)},
            },
            "unfolded",
        ),
        ({"split": 2}, "steps over 64 channels"),
        ({"split": 0}, "split"),
        ({"stages": 1}, "stages"),
        ({"halo": True, "box": (2, 8, 4)}, "one image"),
        ({"halo": True, "problem": {"stride": 3}}, "whole strides apart"),
        ({"halo": True, "problem": {"input_dilation": 2}}, "same number of taps"),
        (
            {
                "halo": True,
                "resident": True,
                "bn": 32,
                "bk": 16,
                "problem": {"channels": (16, 32), "size": (70, 70), "kernel": (41, 1)},
            },
            "registers",
        ),
        ({"consumers": 3}, "consumers"),
        ({"resident": True, "problem": {"channels": (64, 80)}}, "output channels"),
        ({"resident": True, "problem": {"groups": 2}}, "one group"),
        ({"resident": True, "split": 2, "bk": 32}, "one part"),
        ({"resident": True, "taps": 2, "bk": 16}, "one tap"),
        ({"resident": True, "cluster": 2}, "no cluster"),
        ({"taps": 0}, "taps"),
        ({"out_bufs": 17, "bn": 16, "problem": {"residual": True}}, "barriers"),
        ({"unfold": True, "problem": {"role": "dgrad", "stride": 2}}, "one output phase"),
        ({"fold": 3}, "of 2"),
        ({"fold": 1, "problem": {"stride": 2}}, "without a stride"),
        ({"fold": 1, "split": 2}, "split"),
        ({"fold": 2, "unfold": True}, "unfold"),
        ({"fold": 2, "problem": {"batch": 2**16, "size": (32, 32)}}, "sums"),
        ({"box": (2, 1, 4, 8), "problem": {"size": (9, 9, 9), "stride": 2}}, "one image"),
        ({"box": (2, 1, 4, 8), "split": 2, "bk": 32, "problem": {"size": (9, 9, 9)}}, "one image"),
    ],
)
def test_illegal_configurations_say_why(changes, words):
    problem = Problem.of(product(**changes.pop("problem", {})))
    cfg = Config(**{"box": (1, 8, 8), "bn": 64, **changes})
    assert words in illegal(problem, cfg)


def test_a_cluster_needs_as_many_multiprocessors():
    problem, cfg = Problem.of(product()), Config((1, 8, 8), 64, cluster=2)
    assert illegal(problem, cfg, Gpu(2)) is None
    assert illegal(problem, cfg, Gpu(1)) == "cfg.cluster=2 must be at most gpu.num_sms=1"

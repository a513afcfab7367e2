"""Depthwise products of large kernels, and random cases of their kernel."""

import random

from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.large_depthwise import served, work
from pallas_conv.kernels.large_depthwise.legal import illegal
from pallas_conv.kernels.large_depthwise.plan import Config, Problem
from pallas_conv.spec import Product
from tests.kernels import cases
from tests.kernels.cases import Case

MOST_MACS = 40_000_000  # that the interpreter does in seconds, being one product of matrices for each row


def large(role: str, batch: int, channels: int, *args, **kwargs) -> Product:
    """A product of groups of one channel, see `configured.product`."""
    return cases.product(role, batch, (channels, channels), *args, groups=channels, **kwargs)


def some_product(rng: random.Random) -> Product:
    """A random product that is served: convolutions, and transposed ones, which without strides are their gradients."""
    while True:
        pick, role = rng.choice, rng.choice(("fprop", "fprop", "dgrad", "wgrad", "wgrad"))
        pair = lambda lo, hi: (rng.randint(lo, hi), rng.randint(lo, hi))
        dtype, fused = pick(("bfloat16", "bfloat16", "float16")), {}
        if role == "fprop":
            fused = {
                "bias": pick((True, False)),
                "activation": pick((None, "relu", "silu", "gelu")),
                "outputs": pick((("y",), ("z",), ("y", "z"))),
            }
        if role == "wgrad":
            fused = {"outputs": pick(served.GRADIENTS)}
        most = pick((20, 60))
        p = large(
            role,
            rng.randint(1, 3),
            rng.randint(2, pick((9, 30))),
            (rng.randint(1, most), rng.randint(1, most)),
            pair(1, pick((15, 31, 64))),
            padding=(pair(-2, pick((5, 40))), pair(-2, pick((5, 40)))),
            models=pick((None, None, 2, 3)),
            dtype=dtype,
            out_dtype=pick((dtype, "float32")),
            **fused,
        )
        if not served.reasons(p):
            return p


def some_config(rng: random.Random) -> Config:
    """A random configuration, which may be illegal."""
    return Config(16 * rng.choice((1, 2, 3, 4, 5)), 8 * rng.choice((1, 1, 2, 3, 5, 8)), rng.choice((1, 2, 3, 4)))


def generated(seed: int) -> Case:
    """A random product that is served, and a random configuration that is legal for it."""
    rng = random.Random(f"large depthwise {seed}")
    while True:
        p = some_product(rng)
        cfg, num_sms = some_config(rng), rng.randint(1, 4)
        problem = Problem.of(p)
        if not illegal(problem, cfg, Gpu(num_sms)) and work.executed_macs(problem, cfg) <= MOST_MACS:
            return Case(f"generated large depthwise {seed}", p, cfg, num_sms)

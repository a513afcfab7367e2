"""Random cases of the weight-gradient kernel."""

import random

from pallas_conv.kernels.family import LEAST_CHANNELS
from pallas_conv.kernels.geometry import boxes
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.wgrad import served, work
from pallas_conv.kernels.wgrad.legal import illegal
from pallas_conv.kernels.wgrad.plan import Config, M, Problem
from pallas_conv.spec import Product
from tests.kernels import cases
from tests.kernels.cases import Case

MOST_PRODUCTS = 700  # of lines of pixels, which the interpreter multiplies one by one


def some_product(rng: random.Random) -> Product:
    """A random product that is served: convolutions and transposed ones, and what is both."""
    while True:
        pick, nd = rng.choice, rng.choice((1, 2, 2, 2, 3))
        each = lambda lo, hi, nd=nd: tuple(rng.randint(lo, hi) for _ in range(nd))
        pair = lambda lo, hi: (rng.randint(lo, hi), rng.randint(lo, hi))
        groups, dtype = pick((1, 1, 1, 2, 3)), pick(("bfloat16", "bfloat16", "float16", "float32"))
        p = cases.product(
            "wgrad",
            rng.randint(1, 4) if rng.random() < 0.8 else rng.randint(32, 70),
            pair(1, pick((8, 150)))
            if groups == 1
            else (groups * rng.randint(LEAST_CHANNELS, 40), groups * rng.randint(LEAST_CHANNELS, 40)),
            each(1, (90, 16, 7)[nd - 1]),
            each(1, 5),
            stride=pick((1, 1, each(1, 3))),
            padding=tuple(pair(-2, 5) for _ in range(nd)),
            dilation=pick((1, each(1, 3))),
            input_dilation=pick((1, 1, each(1, 3))),
            groups=groups,
            models=pick((None, None, None, 2, 3)),
            dtype=dtype,
            out_dtype=pick((dtype, "float32")),
            outputs=pick((("dw",), ("dw", "db"))),
        )
        if not (served.reasons(p) or (dtype == "float32" and "db" in p.outputs)):  # see test_interpret.py
            return p


def some_config(rng: random.Random, p: Product) -> Config:
    """A random configuration, which may be illegal."""
    pick, nd = rng.choice, p.spec.ndim
    box = pick([b for b in boxes(pick((64, 64, 128)), nd) if b[-1] >= 4])
    in_registers = "db" in p.outputs or pick((True, False))
    return Config(
        step_pixels=(3 * box[0], *box[1:]) if rng.random() < 0.1 else box,
        tile_n=pick((16, 32, 64)) if in_registers else 64,
        taps_per_tile=rng.randint(1, 4),
        channel_loads=pick((1, 1, 1, 2, 3)),
        m_warpgroups=pick((1, 1, 2, 3)),
        n_warpgroups=pick((1, 1, 2, 3)),
        halo=pick((True, False)),
        dy_registers=in_registers,
        stages=pick((2, 2, 3)),
        split_k=pick((1, 1, 2, 3, 5)),
        ctas_per_sm=pick((1, 1, 2)),
        multicast=pick(("", "", "x", "dy")),
        transposed="db" not in p.outputs and pick((True, False)),
        space_to_depth=pick((True, False)),
        row_outputs=pick((1, 1, 2, 3, 4)),
    )


def generated(seed: int) -> Case:
    """A random product that is served, and a random configuration that is legal for it."""
    rng = random.Random(f"weight gradient {seed}")
    while True:
        p = some_product(rng)
        cfg, num_sms = some_config(rng, p), rng.randint(2, 5)
        case = Case(f"generated weight gradient {seed}", p, cfg, num_sms)
        if not illegal(Problem.of(p), cfg, Gpu(num_sms)) and in_seconds(case):
            return case


def in_seconds(case: Case) -> bool:
    """Whether the interpreter is done with a case in seconds. The emulator is with all."""
    cfg = case.config
    products = work.executed_macs(Problem.of(case.product), cfg) / (cfg.step_pixels[-1] * cfg.tile_n * M)
    return products <= MOST_PRODUCTS

"""Depthwise products, and random cases of the kernel."""

import random

from pallas_conv.kernels.depthwise import served, work
from pallas_conv.kernels.depthwise.legal import illegal
from pallas_conv.kernels.depthwise.plan import Config, Problem
from pallas_conv.kernels.depthwise.tiling import tiling
from pallas_conv.kernels.gpu import MOST_BARRIERS, Gpu
from pallas_conv.spec import Product
from tests.kernels.cases import Case
from workloads.ladder.depthwise.products import narrow as depthwise

MOST_MACS = 1_500_000  # that the interpreter does in seconds


def some_product(rng: random.Random) -> Product:
    """A random product that is served."""
    while True:
        pick, nd, role = (
            rng.choice,
            rng.choice((1, 2, 2, 2, 3)),
            rng.choice(("fprop", "fprop", "dgrad", "wgrad", "wgrad", "bwd", "bwd")),
        )
        each = lambda lo, hi, nd=nd: tuple(rng.randint(lo, hi) for _ in range(nd))
        pair = lambda lo, hi: (rng.randint(lo, hi), rng.randint(lo, hi))
        dtype, fused = pick(("bfloat16", "bfloat16", "float16", "float32")), {}
        group = pick((1, 1, 1, 2, 4, 8, 3, (1, 2), pair(1, 8)))
        of_x = group[0] if isinstance(group, tuple) else group
        if role == "fprop":
            fused = {
                "bias": pick((True, False)),
                "residual": pick((True, False)),
                "activation": pick((None, "relu", "silu", "gelu")),
                "outputs": pick((("y",), ("z",), ("y", "z"))),
            }
        if role in served.GRADIENTS:
            fused = {"outputs": pick(served.GRADIENTS[role])}
        if role == "bwd":
            fused["activation"] = pick((None, None, "relu", "silu", "gelu"))
        p = depthwise(
            role,
            rng.randint(1, 3),
            rng.randint(1, pick((12, 80)) // of_x) * of_x,
            each(1, (90, 20, 7)[nd - 1]),
            each(1, pick((3, 5, (20, 7, 4)[nd - 1]))),
            stride=pick((1, 1, each(1, 3))),
            padding=tuple(pair(-2, 5) for _ in range(nd)),
            dilation=pick((1, 1, each(1, 3))),
            input_dilation=pick((1, 1, 1, each(1, 3))),
            models=pick((None, None, 2, 3)),
            dtype=dtype,
            out_dtype=pick((dtype, "float32")),
            group=group,
            **fused,
        )
        if p.spec.groups > 1 and not served.reasons(p):
            return p


def some_config(rng: random.Random, p: Product) -> Config:
    """A random configuration, which may be illegal."""
    pick, stride = rng.choice, Problem.of(p).dims[1].in_stride
    rows = pick((1, 2, 3, 4))
    cfg = Config(
        tile_pixels=(
            pick((1, 1, 2)) if p.spec.ndim == 3 else 1,
            rows if p.spec.ndim > 1 else 1,
            pick((16, 16, 32, 48)),
        ),
        chunk_rows=pick([n for n in range(1, rows * stride + 1) if rows * stride % n == 0]) if p.spec.ndim > 1 else 1,
        strip_tiles=pick((1, 2, 3)),
        channel_warpgroups=pick((1, 1, 2, 3)),
        column_warpgroups=pick((1, 1, 2)),
        stages=MOST_BARRIERS,
        ctas_per_sm=pick((1, 2)),
    )
    least = tiling(Problem.of(p), cfg).tile_chunks
    return Config(**(vars(cfg) | {"stages": least + pick((0, 1, 2, 5))}))


def generated(seed: int) -> Case:
    """A random product that is served, and a random configuration that is legal for it."""
    rng = random.Random(f"depthwise {seed}")
    while True:
        p = some_product(rng)
        cfg, num_sms = some_config(rng, p), rng.randint(1, 4)
        problem = Problem.of(p)
        if not illegal(problem, cfg, Gpu(num_sms)) and work.executed_macs(problem, cfg) <= MOST_MACS:
            return Case(f"generated depthwise {seed}", p, cfg, num_sms)

"""Random whole backward passes of 1x1 convolutions, and random tiles for them."""

import math
import random

from pallas_conv.kernels.geometry import boxes
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.pointwise import legal, served
from pallas_conv.kernels.pointwise.plan import CHUNK, PIXELS, Config, Problem, tiling
from pallas_conv.spec import Product
from tests.kernels.cases import Case
from workloads.ladder.pointwise import ALL, bwd

ACTIVATIONS = (None, None, "relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
MOST_STEPS = 12  # which the interpreter takes in seconds


def some_product(rng: random.Random) -> Product:
    """A random product that is served."""
    while True:
        pick, nd = rng.choice, rng.choice((1, 2, 2, 2, 3))
        dtype = pick(("bfloat16", "bfloat16", "float16"))
        found = bwd(
            rng.randint(1, 6),
            (
                CHUNK * rng.randint(1, pick((1, 2, 4))) - rng.randint(0, 50),
                CHUNK * rng.randint(1, pick((1, 2, 4))) - rng.randint(0, 50),
            ),
            tuple(rng.randint(1, (200, 16, 7)[nd - 1]) for _ in range(nd)),
            outputs=pick((ALL, ALL[:2])),
            activation=pick(ACTIVATIONS),
            models=pick((None, None, None, 2, 3)),
            dtype=dtype,
            out_dtype=pick((dtype, dtype, "float32")),
        )
        if not served.reasons(found):
            return found


def some_config(rng: random.Random, product: Product) -> Config:
    """A random configuration, which may be illegal."""
    pick, nd = rng.choice, product.spec.ndim
    box = pick([b for b in boxes(PIXELS, nd) if b[-1] >= 4 or nd == 1])
    widest = -(-product.in_channels // CHUNK)
    return Config(box, CHUNK * rng.randint(-(-widest // 2), widest), pick((2, 2, 3, 4, 5)), pick((1, 1, 2, 3)))


def generated(seed: int) -> Case:
    """A random product that is served, and a random configuration that is legal for it."""
    rng = random.Random(f"pointwise {seed}")
    while True:
        product = some_product(rng)
        config, num_sms = some_config(rng, product), rng.randint(1, 4)
        problem = Problem.of(product)
        if legal.illegal(problem, config, Gpu(num_sms)):
            continue
        t = tiling(problem, config)
        if t.steps * t.blocks * t.row_blocks * t.column_blocks <= MOST_STEPS * math.prod((2, 2)):
            return Case(f"generated pointwise {seed}", product, config, num_sms)

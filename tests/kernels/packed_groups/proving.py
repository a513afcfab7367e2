"""Products of groups of few channels on one side, random cases of them, and their proof."""

import math
import random

from pallas_conv.kernels import families
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.packed_groups import PACKED_GROUPS
from pallas_conv.kernels.packed_groups.plan import LAUNCHED, Config, counts, packed
from pallas_conv.spec import Product
from tests.kernels import proving
from tests.kernels.cases import Case
from tests.kernels.dense import proving as dense
from tests.kernels.wgrad import proving as wgrad
from workloads.ladder.packed_groups import layer


def of_groups(role: str, groups: int, channels: tuple[int, int], size=(7, 9), kernel=3, *args, **more) -> Product:
    """A product of so many groups of so many channels in and out: a 3x3 convolution unless it says otherwise."""
    return layer(role, groups, channels, size, kernel, *args, **more)


def prove(case: Case) -> None:
    """Raise unless the case is right and free of races."""
    (proving.prove if case.product.role == "wgrad" else dense.prove)(case)


def some_product(rng: random.Random) -> Product:
    """A random product that is served: convolutions and transposed ones."""
    while True:
        pick, nd = rng.choice, rng.choice((1, 2, 2, 3))
        each = lambda lo, hi, nd=nd: tuple(rng.randint(lo, hi) for _ in range(nd))
        role, dtype = pick(("fprop", "fprop", "dgrad", "wgrad")), pick(("bfloat16", "bfloat16", "float16", "float32"))
        more = {"outputs": pick((("dw",), ("dw", "db")))} if role == "wgrad" else {}
        if role == "fprop":
            more = {"bias": pick((True, False)), "residual": pick((True, False)), "activation": pick((None, "silu"))}
            more["outputs"] = pick((("y",), ("z",), ("y", "z")))
        channels = rng.randint(1, 8), rng.randint(9, 14)
        found = of_groups(
            role, rng.randint(2, 12), channels[:: pick((1, -1))], each(1, (40, 10, 5)[nd - 1]), each(1, 3),
            padding=tuple((rng.randint(-1, 2), rng.randint(-1, 2)) for _ in range(nd)), dilation=pick((1, each(1, 2))),
            models=pick((None, None, 2)), dtype=dtype, out_dtype=pick((dtype, "float32")),
            **{pick(("stride", "input_dilation")): pick((1, each(1, 2)))}, **more,
        )  # fmt: skip
        if families.serving(found) is PACKED_GROUPS and math.prod(found.operand_shapes[0]) <= 20_000:
            return found


def generated(seed: int) -> Case:
    """A random product, a random number of groups in one, and a random tile that is legal for these."""
    rng, gpu = random.Random(f"packed groups {seed}"), Gpu(3)
    while True:
        product = some_product(rng)
        count = rng.choice(counts(product))
        launched = packed(product, count)
        tile = (wgrad if product.role == "wgrad" else dense).some_config(rng, launched)
        if tile is None:
            continue
        config = Config(count, LAUNCHED[product.role].name, tile)
        in_seconds = product.role != "wgrad" or wgrad.in_seconds(Case("", launched, tile))
        if not PACKED_GROUPS.illegal(PACKED_GROUPS.problem(product), config, gpu) and in_seconds:
            return Case(f"generated packed groups {seed}", product, config, 3)

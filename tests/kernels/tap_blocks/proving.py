"""Depthwise products of more taps than a thread keeps, and random cases of them."""

import math
import random

from pallas_conv.kernels import families
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.tap_blocks import TAP_BLOCKS
from pallas_conv.spec import Product
from tests.kernels.cases import Case, product

MOST_TAPS = 60  # of a random case, of all its launches: their code is one long line each, which takes long to interpret


def grouped(role: str, channels: int, *args, group: int = 8, batch: int = 2, **more) -> Product:
    """A product of groups of so many channels, see `configured.product`. Of eight in float32, some taps fill the registers."""
    return product(role, batch, (channels, channels), *args, groups=channels // group, **{"dtype": "float32"} | more)


def some_product(rng: random.Random) -> Product:
    """A random product that is served in blocks: convolutions, transposed ones, and gradients of both."""
    while True:
        pick, pair = rng.choice, lambda lo, hi: (rng.randint(lo, hi), rng.randint(lo, hi))
        role, ndim = pick(("fprop", "fprop", "dgrad", "wgrad")), pick((1, 2, 2, 3))
        each = lambda lo, hi: tuple(rng.randint(lo, hi) for _ in range(ndim))  # noqa: B023
        fused = {}
        if role == "fprop":
            fused = {
                "bias": pick((True, False)),
                "residual": pick((True, False)),
                "activation": pick((None, "relu", "silu")),
                "outputs": pick((("y",), ("z",), ("y", "z"))),
            }
        if role == "wgrad":
            fused = {"outputs": pick((("dw",), ("dw", "db")))}
        group, transposed = pick((4, 8, 8)), pick((True, False))
        strides = {"input_dilation" if transposed else "stride": each(1, 2)}
        found = grouped(
            role, 2 * group, each(1, 14 if ndim < 3 else 5), each(1, {1: 40, 2: 8, 3: 4}[ndim]), group=group,
            padding=tuple(pair(-1, 5) for _ in range(ndim)), dilation=each(1, 2), models=pick((None, None, 2)),
            batch=rng.randint(1, 2), **strides, **fused,
        )  # fmt: skip
        if families.serving(found) is TAP_BLOCKS and math.prod(found.spec.kernel_spatial) <= MOST_TAPS:
            return found


def generated(seed: int) -> Case:
    """A random product, and one of the smallest tiles that are legal for all of its blocks."""
    rng, gpu = random.Random(f"tap blocks {seed}"), Gpu(3)
    found = some_product(rng)
    size = lambda cfg: (cfg.tile_pixels[0] * cfg.tile_pixels[1] * cfg.columns * cfg.channels, rng.random())
    return Case(
        f"generated tap blocks {seed}", found, min(TAP_BLOCKS.candidates(TAP_BLOCKS.problem(found), gpu), key=size), 3
    )

"""Products of every kind that costs and choices tell apart, and some of the candidates for each."""

import functools
import random
from typing import Any

from pallas_conv.kernels import families
from pallas_conv.kernels.cost import Work
from pallas_conv.kernels.family import Family
from pallas_conv.kernels.gpu import ANY_HOPPER, Gpu
from tests.kernels import cases

BASE = {"role": "fprop", "batch": 2, "channels": (64, 64), "size": (9, 9), "kernel": 3}


def product(**changes):
    """A 3x3 convolution of 64 channels, but for some changes."""
    return cases.product(**{**BASE, **changes})


PRODUCTS = {
    "halo": product(batch=16, channels=(128, 128), size=(64, 64), padding=1),
    "few_channels": product(batch=64, channels=(3, 64), size=(64, 64), stride=2, padding=1),
    "few_tiles": product(channels=(1024, 256)),
    "uneven_phases": product(role="dgrad", batch=64, channels=(64, 128), size=(32, 32), stride=2, padding=1),
    "volume": product(channels=(64, 64), size=(16, 32, 32), padding=1),
    "line_f32": product(batch=8, channels=(96, 96), size=(4096,), dtype="float32"),
    "residual": product(batch=16, channels=(64, 256), size=(56, 56), kernel=1, residual=True),
}


def posed(name: str) -> tuple[Family, Any]:
    """The family that serves a product, and the product as the family sees it."""
    family = families.serving(PRODUCTS[name])
    assert family is not None
    return family, family.problem(PRODUCTS[name])


def counted(name: str, gpu: Gpu = ANY_HOPPER) -> dict[Any, Work]:
    """All candidates for a product, and what each asks."""
    family, problem = posed(name)
    return {cfg: family.work(problem, cfg, gpu) for cfg in family.candidates(problem, gpu)}


@functools.cache
def some(name: str) -> list[tuple[Any, Work]]:
    """A few of them."""
    family, problem = posed(name)
    found = random.Random(name).sample(list(family.candidates(problem, ANY_HOPPER)), 30)
    return [(cfg, family.work(problem, cfg, ANY_HOPPER)) for cfg in found]

"""Random layers to fit and to validate rules on: like what people build, not like the suite. Each is a `cases.Case`."""

import math
import random
from collections.abc import Iterator

from .cases import Case

MOST_FLOPS = 1.2e9  # of the forward product: a CPU runs it in some ten milliseconds
MOST_ELEMENTS = 4e6


def random_layers(count: int, seed: int) -> Iterator[Case]:
    """`count` layers with 1 to 3 dimensions, every kind of channels and geometry; the same for the same seed."""
    rng = random.Random(seed)
    found = 0
    while found < count:
        case = _draw(rng, f"random_{seed}_{found:03d}")
        if case and _runs_on_a_cpu(case):
            found += 1
            yield case


def dense_layers(count: int, seed: int, dtype: str) -> Iterator[Case]:
    """`count` 2-D convolutions without groups, as image networks have them."""
    rng = random.Random(f"dense {seed}")
    found = 0
    while found < count:
        c = rng.choice((3, 16, 24, 32, 40, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512))
        o = c if rng.random() < 0.5 else rng.choice((16, 24, 32, 40, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512))
        kernel, extent = rng.choice((3, 3, 3, 3, 1, 2, 4, 5, 7)), rng.choice((7, 8, 10, 14, 16, 20, 28, 32, 56, 64))
        stride = 2 if kernel in (2, 4) else rng.choice((1, 1, 1, 2))
        dilation = rng.choice((1, 1, 1, 1, 2)) if kernel in (3, 5) else 1
        low = dilation * (kernel - 1) // 2
        case = Case(
            name=f"dense_{dtype}_{seed}_{found:03d}",
            op="conv",
            batch=rng.choice((1, 2, 4, 8, 16)),
            in_channels=c,
            out_channels=o,
            spatial=(extent, extent),
            kernel_size=(kernel, kernel),
            stride=(stride, stride),
            padding=((low, low),) * 2,
            dilation=(dilation, dilation),
            dtype=dtype,
        )
        if min(case.out_spatial) > 1 and _runs_on_a_cpu(case):
            found += 1
            yield case


def _draw(rng: random.Random, name: str) -> Case | None:
    ndim = rng.choice((1, 2, 2, 2, 3))
    transposed = rng.random() < 0.35
    extent = rng.choice(
        {1: (64, 200, 512, 1000, 4096), 2: (7, 8, 14, 28, 33, 56, 64, 112), 3: (6, 8, 12, 16, 20)}[ndim]
    )
    kernel = rng.choice({1: (1, 2, 3, 4, 7, 9, 15), 2: (1, 2, 3, 3, 3, 4, 5, 7), 3: (1, 2, 3, 3, 3, 4)}[ndim])
    stride = rng.choice((2, 2, 2, 3, 4) if transposed else (1, 1, 1, 1, 2, 2, 3))
    dilation = rng.choice((1, 1, 1, 1, 2, 4)) if kernel > 1 and not transposed else 1
    kind = rng.choice(("dense", "dense", "dense", "depthwise", "grouped", "multiplier"))
    groups, c, o = 1, rng.choice((1, 3, 8, 16, 24, 48, 64, 128, 256)), rng.choice((1, 3, 8, 16, 32, 48, 64, 128, 256))
    if kind == "depthwise":
        groups = c = o = rng.choice((16, 24, 64, 96, 144, 256))
    elif kind == "grouped":
        groups = rng.choice((2, 4, 8, 16, 32))
        c, o = groups * rng.choice((2, 4, 8, 16)), groups * rng.choice((2, 4, 8, 16))
    elif kind == "multiplier":
        groups = c = rng.choice((3, 16, 32, 64))
        o = c * rng.choice((2, 4))
    span = dilation * (kernel - 1) + 1
    low, high = rng.choice(
        (((span - 1) // 2, span // 2), (0, 0), (span - 1, 0) if ndim == 1 else (span // 2, span // 2))
    )
    if not transposed and extent + low + high < span:
        return None
    return Case(
        name=name,
        op="conv_transpose" if transposed else "conv",
        batch=rng.choice((1, 2, 4, 8)),
        in_channels=c,
        out_channels=o,
        spatial=(extent,) * ndim,
        kernel_size=(kernel,) * ndim,
        stride=(stride,) * ndim,
        padding=((low, high),) * ndim,
        dilation=(dilation,) * ndim,
        groups=groups,
        output_padding=(rng.randrange(stride),) * ndim if transposed else (),
        dtype="float32",
    )


def _runs_on_a_cpu(case: Case) -> bool:
    largest = max(math.prod(case.shapes()[name]) for name in "xyw")
    return min(case.out_spatial) > 0 and largest <= MOST_ELEMENTS and case.flops() <= MOST_FLOPS

"""One case for every code path that is chosen for products: the very tiles, taps and stages, on few pixels and channels.

So what runs at full size can be held against float64 as a whole, in the interpreter and on hardware.
"""

import dataclasses
from collections.abc import Iterable

from pallas_conv.kernels import config, evidence
from pallas_conv.kernels.config import Config, Problem
from pallas_conv.kernels.taps import Dim
from pallas_conv.spec import Product

from .configured import Case

WORKERS = 2  # so that each takes several tiles


def representatives(chosen: Iterable[tuple[Product, Config]]) -> list[Case]:
    """Products under the configurations chosen for them, shrunk: the first of each code path, and of each epilogue."""
    found, proven = [], set[str]()
    for product, cfg in chosen:
        code_path, epilogue = evidence.code_path(product, cfg), evidence.epilogue(product, cfg)
        if {code_path, epilogue} <= proven:
            continue
        proven |= {code_path, epilogue}
        found.append(shrunk(f"{code_path}, {epilogue}", product, cfg))
    return found


def shrunk(name: str, product: Product, cfg: Config) -> Case:
    """The product at a size of two tiles or so in every dimension, the last of them ragged."""
    problem = Problem.of(product)
    images, *extents = config.tiling(problem, cfg).cta_box
    rows = [min(d.rows, extent + extent // 2 + 1) for d, extent in zip(problem.dims, extents, strict=True)]
    steps = 2 * max(1, cfg.split)
    summed = problem.C if cfg.unfold else min(problem.C, cfg.bk * steps - 8)
    channels = summed, min(problem.K, cfg.bn + 8)
    groups = product.spec.groups
    c, o = (n * groups for n in (channels if product.role == "fprop" else channels[::-1]))
    small = dataclasses.replace(
        product,
        spec=dataclasses.replace(product.spec, in_spatial=_in_spatial(product, problem.dims, rows)),
        batch=min(product.batch, images + 1),
        in_channels=c,
        out_channels=o,
    )
    return Case(name, small, cfg, num_sms=WORKERS * cfg.cluster // cfg.blocks)


def _in_spatial(product: Product, dims: tuple[Dim, ...], rows: list[int]) -> tuple[int, ...]:
    """Sizes of the input for which the kernel tiles about so many rows of each output phase."""
    sizes = [min(d.out_size, n * d.out_stride - (d.out_stride > 1)) for n, d in zip(rows, dims, strict=True)]
    if product.role == "dgrad":
        return tuple(sizes)
    s = product.spec
    geometry = zip(
        s.in_spatial, sizes, s.strides, s.kernel_spatial, s.kernel_dilation, s.padding, s.input_dilation, strict=True
    )
    return tuple(
        min(whole, max(1, -(-((n - 1) * stride + (k - 1) * dilation + 1 - sum(pad)) // up) + (up > 1)))
        for whole, n, stride, k, dilation, pad, up in geometry
    )

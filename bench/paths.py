"""One case for every code path of the dense family that is chosen for wanted products: the very tiles, taps and stages, shrunk.

    python -m bench.paths --out workloads/paths.json

They have few pixels and channels: so what runs at full size is held against float64 as a whole, in the interpreter and on
hardware. Choosing for all products takes a minute, so the cases are kept as data, and made anew where the choice of tiles
changed.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Iterable

from pallas_conv import strict
from pallas_conv.kernels import serve
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.geometry import TapAxis
from pallas_conv.kernels.serve import Kernel
from pallas_conv.spec import ConvSpec, Product, dilated
from pallas_conv.wanted import wanted
from workloads.configured import Case
from workloads.paths import FILE

WORKERS = 2  # so few that small products give them several tiles


def products() -> list[Product]:
    """All wanted products, the suite's first."""
    return [layer.product for layer in wanted().suite] + [use.product for use in wanted().networks]


def representatives(kernels: Iterable[Kernel]) -> list[Case]:
    """Shrunk products of these kernels, under their configurations: the first of each code path, and of each epilogue."""
    found, proven = [], set[str]()
    for kernel in kernels:
        if (keys := proves(kernel)) <= proven:
            continue
        proven |= keys
        found.append(shrunk(case_name(kernel), kernel.product, kernel.config))
    return found


def proves(kernel: Kernel) -> set[str]:
    """The code path and the epilogue that a check of the kernel proves right."""
    return {kernel.facts.code_path, kernel.facts.epilogue}


def case_name(kernel: Kernel) -> str:
    """The name of a kernel's case."""
    return f"{kernel.facts.code_path}, {kernel.facts.epilogue}"


def shrunk(name: str, product: Product, cfg: Config) -> Case:
    """The product at the least size at which a worker takes several tiles, some of them ragged; of more images if need be."""
    ragged = (_of_tiles(n, product, cfg) for n in itertools.count(1))
    small = next(p for p in ragged if tiling(Problem.of(p), cfg).work_tiles > WORKERS)
    return Case(name, small, cfg, num_sms=WORKERS * cfg.cluster // cfg.ctas_per_sm)


def _of_tiles(count: int, product: Product, cfg: Config) -> Product:
    """The product with so many whole tiles, and about half of one, in every dimension; two steps over channels a part."""
    problem, groups = Problem.of(product), product.spec.groups
    images, *extents = tiling(problem, cfg).cta_pixels
    rows = [count * n + n // 2 + 1 if n > 1 else min(d.rows, 2) for d, n in zip(problem.dims, extents, strict=True)]
    summed = problem.in_channels if cfg.im2col else min(problem.in_channels, 2 * cfg.split_k * cfg.tile_k - 8)
    channels = summed * groups, min(problem.out_channels, cfg.tile_n + 8) * groups
    c, o = channels if product.role == "fprop" else channels[::-1]
    spec = dataclasses.replace(product.spec, in_spatial=_in_spatial(product, problem.dims, rows))
    return dataclasses.replace(product, spec=spec, batch=count * images + 1, in_channels=c, out_channels=o)


def _in_spatial(product: Product, dims: tuple[TapAxis, ...], rows: list[int]) -> tuple[int, ...]:
    """Sizes of the input for which the kernel tiles about so many rows of each output phase."""
    results = [n * d.out_stride - (d.out_stride > 1) for n, d in zip(rows, dims, strict=True)]
    if product.role == "fprop":
        return tuple(_read(product.spec, i, n) for i, n in enumerate(results))
    return tuple(max(n, _read(product.spec, i, 1)) for i, n in enumerate(results))


def _read(spec: ConvSpec, dim: int, outputs: int) -> int:
    """The size of an input with so many outputs in a dimension, or one more of them."""
    window = dilated(spec.kernel_spatial[dim], spec.kernel_dilation[dim])
    seen = (outputs - 1) * spec.strides[dim] + window - sum(spec.padding[dim])
    up = spec.input_dilation[dim]
    return max(1, -(-seen // up) + (up > 1))


def text(found: Iterable[Case]) -> str:
    """JSON with a case a line."""
    return "[\n" + ",\n".join(json.dumps(strict.to_json(case), separators=(",", ":")) for case in found) + "\n]\n"


def main(argv: list[str] | None = None) -> int:
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="bench.paths", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=FILE, help="the JSON file (default: %(default)s)")
    args = parser.parse_args(argv)
    found = representatives(serve.kernel(product) for product in tqdm(products(), unit="product", disable=None))
    args.out.write_text(text(found))
    print(f"{args.out}: {len(found)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())

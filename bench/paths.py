"""One small case for every code path that is chosen for wanted products, of the very tiles, taps and stages.

    python -m bench.paths --out workloads/paths.json

They have few pixels, channels and parts: so what runs at full size is held against float64 as a whole, in the interpreter or
the emulator, and on hardware. Choosing for all products takes minutes, so the cases are kept as data, and made anew where the
choice of tiles changed.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from pallas_conv import strict
from pallas_conv.equation import Equation, operands_of
from pallas_conv.kernels import families, serve
from pallas_conv.kernels.cost import Work
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.geometry import TapAxis
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.serve import Kernel
from pallas_conv.spec import ConvSpec, Product, dilated
from pallas_conv.wanted import wanted
from workloads.configured import Case
from workloads.paths import FILE

WORKERS = 2  # so few that small products give them several tiles


def products() -> list[Product]:
    """All wanted products, the suite's first, and the parts of those that are several."""
    found = [layer.product for layer in wanted().suite] + [use.product for use in wanted().networks]
    return found + [part for product in found for part in parts(product)]


def parts(product: Product) -> list[Product]:
    """The products that take the place of a whole backward pass where two kernels are faster, those that are served."""
    if product.role != "bwd":
        return []
    equation, operands = Equation.of(product, ("auto",)), operands_of(product)
    found = [equation.in_passing(part, operands) or part for part in equation.products(product.operand_shapes)]
    return [part for part in found if families.serving(part)]


def representatives(kernels: Iterable[Kernel]) -> list[Case]:
    """Shrunk products of these kernels, under their configurations: the first of each code path, and of each epilogue."""
    found, proven = [], set[str]()
    for kernel in kernels:
        if (keys := proves(kernel)) <= proven:
            continue
        proven |= keys
        found.append(shrunk(kernel) if kernel.family is DENSE else smallest(kernel))
    return found


def proves(kernel: Kernel) -> set[str]:
    """The code path and the epilogue that a check of the kernel proves right."""
    return {kernel.facts.code_path, kernel.facts.epilogue}


def case_name(kernel: Kernel) -> str:
    """The name of a kernel's case."""
    return f"{kernel.facts.code_path}, {kernel.facts.epilogue}"


def smallest(kernel: Kernel) -> Case:
    """The product in fewer parts and of smaller sizes, on the same code path, as long as it exercises what the whole does."""
    family, config, product = kernel.family, kernel.config, kernel.product
    asked = family.work(family.problem(product), config, kernel.gpu)
    gpu = Gpu(max(1, WORKERS * asked.cluster // asked.ctas_per_sm))
    enough = exercises(product, family.work(family.problem(product), config, gpu))

    def stands_for_it(small: Product, config: Any) -> bool:
        if families.serving(small) is not family or family.illegal(problem := family.problem(small), config, gpu):
            return False
        as_much = exercises(small, family.work(problem, config, gpu)) >= enough
        return as_much and proves(dataclasses.replace(kernel, product=small, given=config)) == proves(kernel)

    while small := next((case for case in _smaller(product, config) if stands_for_it(*case)), None):
        product, config = small
    return Case(case_name(kernel), product, config, gpu.num_sms)


@dataclasses.dataclass(frozen=True)
class Exercises:
    """Features that a case keeps when it is made smaller.

    tiles     of the busiest worker; two show that it goes on to a next one
    steps     of one of them, on the average; two show that sums go on from step to step
    loads     steps of all of them, at most one more than the ring has slots: then slots are used again
    taps      those that meet a pixel, in each dimension: the others' gradients are zeros, whatever is summed
    """

    tiles: float
    steps: float
    loads: float
    taps: tuple[int, ...]

    def __ge__(self, other: "Exercises") -> bool:
        """In every respect."""
        return all(a >= b for a, b in zip(self._all(), other._all(), strict=True))

    def _all(self) -> tuple[float, ...]:
        return self.tiles, self.steps, self.loads, *self.taps


def exercises(product: Product, work: Work) -> Exercises:
    """Measure what this work for a product exercises."""
    tiles = sum(count for count, _ in work.rounds)
    loads = sum(count * steps for count, steps in work.rounds)
    spec = product.spec
    taps = tuple(taps_that_meet_pixels(spec, dim) for dim in range(spec.ndim))
    return Exercises(min(tiles, 2), min(loads / tiles, 2), min(loads, work.stages + 1), taps)


def taps_that_meet_pixels(spec: ConvSpec, dim: int) -> int:
    """The taps of a dimension that an output multiplies by a pixel, rather than by padding or by the zeros between pixels."""
    up, stride, step = spec.input_dilation[dim], spec.strides[dim], spec.kernel_dilation[dim]
    end, before = dilated(spec.in_spatial[dim], up), spec.padding[dim][0]
    read = range(-before, spec.out_spatial[dim] * stride - before, stride)  # where the first tap is, for each output
    return sum(
        any(0 <= at < end and at % up == 0 for at in range(read.start + k * step, read.stop + k * step, stride))
        for k in range(spec.kernel_spatial[dim])
    )


def _smaller(product: Product, config: Any) -> Iterator[tuple[Product, Any]]:
    """The product and its configuration with about half as many parts, or one size about halved, ragged if possible."""
    parts = getattr(config, "split_k", 1)
    for extra in (1, 0):
        if 1 < (fewer := parts // 2 + extra) < parts:
            yield product, dataclasses.replace(config, split_k=fewer)
        for small in _of_smaller_size(product, extra):
            yield small, config


def _of_smaller_size(product: Product, extra: int) -> Iterator[Product]:
    spec = product.spec
    yield from _changed(product, "models", product.models or 1, 1, extra)
    yield from _changed(product, "batch", product.batch, 1, extra)
    yield from _with_fewer_groups(product, extra)
    yield from _changed(product, "in_channels", product.in_channels, spec.groups, extra)
    yield from _changed(product, "out_channels", product.out_channels, spec.groups, extra)
    for i, n in enumerate(spec.in_spatial):
        if (small := n // 2 + extra) < n:
            sizes = (*spec.in_spatial[:i], small, *spec.in_spatial[i + 1 :])
            yield dataclasses.replace(product, spec=dataclasses.replace(spec, in_spatial=sizes))


def _with_fewer_groups(product: Product, extra: int) -> Iterator[Product]:
    groups = product.spec.groups
    if 0 < (fewer := groups // 2 + extra) < groups:
        c, o = (n // groups * fewer for n in (product.in_channels, product.out_channels))
        spec = dataclasses.replace(product.spec, groups=fewer)
        yield dataclasses.replace(product, spec=spec, in_channels=c, out_channels=o)


def _changed(product: Product, field: str, size: int, unit: int, extra: int) -> Iterator[Product]:
    if 0 < (small := size // unit // 2 + extra) < size // unit:
        yield dataclasses.replace(product, **{field: unit * small})  # type: ignore[arg-type]


def shrunk(kernel: Kernel) -> Case:
    """A dense product at the least size at which a worker takes several tiles, some ragged; of more images if need be."""
    product, cfg = kernel.product, kernel.config
    ragged = (_of_tiles(n, product, cfg) for n in itertools.count(1))
    small = next(p for p in ragged if tiling(Problem.of(p), cfg).work_tiles > WORKERS)
    return Case(case_name(kernel), small, cfg, num_sms=WORKERS * cfg.cluster // cfg.ctas_per_sm)


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

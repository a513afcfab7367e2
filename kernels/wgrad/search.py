"""The configurations of the weight-gradient kernel that may be a problem's fastest."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

from ..gpu import ANY_HOPPER, Gpu
from .legal import illegal
from .plan import Config, M, Problem, tiling
from .work import operand_bytes, steps_of_taps, workspace_bytes

WAVES = (1, 2, 3, 4)  # tiles of a block, as many parts as that takes
LEAST_STEPS = 4  # of a part
MOST_STAGES = 8
MOST_WORKSPACE = 256 * 2**20  # bytes of partial sums, which are at most a quarter of the operands besides


@functools.cache
def boxes(pixels: int, nd: int) -> tuple[tuple[int, ...], ...]:
    """All power-of-two boxes of so many pixels over (images, *pixels)."""
    if nd == 0:
        return ((pixels,),)
    sizes = [1 << i for i in range(pixels.bit_length())]
    return tuple((size, *rest) for size in sizes for rest in boxes(pixels // size, nd - 1))


def candidates(problem: Problem, gpu: Gpu = ANY_HOPPER) -> Iterator[Config]:
    """Legal configurations, each with as many stages as fit (eight at most), and with parts for one to four waves."""
    for transposed in (False, True):
        oriented = problem.transpose() if transposed else problem
        if oriented.walkable:
            for tile in _tiles(oriented, transposed):
                yield from _divided(problem, tile, gpu)


def _tiles(p: Problem, transposed: bool) -> Iterator[Config]:
    """Tiles of one part."""
    taps = math.prod(d.count[0] for d in p.dims)
    narrow = next(n for n in (16, 32, 64) if p.in_channels <= n or n == 64)
    for pixels, halo, dy_registers, (m_wgs, n_wgs), ctas, multicast in itertools.product(
        (64, 128), (False, True), (False, True), ((1, 1), (1, 2), (2, 1), (1, 3)), (1, 2), ("", "x", "dy")
    ):
        if (narrow < 64 and not dy_registers) or (m_wgs > 1 and p.out_channels <= M) or ctas * (m_wgs * n_wgs + 1) > 4:
            continue
        if dy_registers and pixels == M and m_wgs * n_wgs * ctas < 2:
            continue  # nothing would multiply while dy is loaded
        for box, together, loads in itertools.product(boxes(pixels, len(p.dims)), range(1, 9), (1, 2, 4)):
            if loads > -(-p.in_channels // narrow) or together * loads % n_wgs or together > taps:
                continue
            yield Config(
                box, narrow, together, loads, m_wgs, n_wgs, halo, dy_registers, 2, 1, ctas, multicast, transposed
            )


def _divided(problem: Problem, tile: Config, gpu: Gpu) -> Iterator[Config]:
    """A tile with as many stages as fit, and its pixels in as many parts as some waves of blocks take."""
    if illegal(problem, tile, gpu):
        return
    t = tiling(problem, tile)
    slot = t.dy_bytes + t.x_bytes
    fitting = (gpu.generation.smem_limit(tile.ctas_per_sm) - 1024) // slot
    stages = max(2, min(MOST_STAGES, fitting))
    if stages < 3:
        return
    deep, most = dataclasses.replace(tile, stages=stages), max(steps_of_taps(problem, tile)) // LEAST_STEPS
    blocks = gpu.num_sms * tile.ctas_per_sm // tile.cluster
    for parts in sorted({max(1, min(waves * blocks // t.work_tiles, most)) for waves in WAVES}):
        cfg = dataclasses.replace(deep, split_k=parts)
        most_bytes = min(MOST_WORKSPACE, operand_bytes(problem) // 4)
        if workspace_bytes(tiling(problem, cfg)) <= most_bytes and not illegal(problem, cfg, gpu):
            yield cfg

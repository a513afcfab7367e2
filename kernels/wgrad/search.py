"""The configurations of the weight-gradient kernel that may be a problem's fastest."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

from ..examples import most_workspace
from ..geometry import boxes
from ..gpu import ANY_HOPPER, Generation, Gpu
from .legal import illegal, illegal_box, illegal_mapping, most_accumulators
from .plan import REDUCTION_BYTES, Config, M, Problem, Tiling, tiling
from .work import operand_bytes, steps_of_taps

WARPGROUPS = (
    (1, 1, 1),
    (1, 2, 1),
    (2, 1, 1),
    (1, 3, 1),
    (1, 1, 2),
)  # over output channels, over x, and blocks on an SM
WAVES = (1, 2, 3, 4)  # tiles of a block, as many parts as that takes
MOST_BOXES = 3
MOST_TAPS = 8  # loads are issued one by one
LEAST_STEPS = 4  # of a part
LEAST_STAGES, MOST_STAGES = 3, 8
BARRIERS = 1024  # bytes of shared memory beside the slots, with what rounding takes


def candidates(problem: Problem, gpu: Gpu = ANY_HOPPER) -> Iterator[Config]:
    """Some hundred legal configurations, each with as many stages as fit, and with parts for one wave of blocks or several."""
    for transposed, space_to_depth, row_outputs in itertools.product((False, True), (False, True), (1, 2, 4)):
        plain = Config((), transposed=transposed, space_to_depth=space_to_depth, row_outputs=row_outputs)
        oriented = problem.oriented(plain)
        if not oriented.single_phase or illegal_mapping(oriented, plain):
            continue
        p = problem.under(plain)
        if (space_to_depth and p.in_channels > M) or (row_outputs > 1 and p.out_channels > M):
            continue  # there are enough channels without
        for tile in _tiles(p, gpu.generation):
            mapped = dataclasses.replace(
                tile, transposed=transposed, space_to_depth=space_to_depth, row_outputs=row_outputs
            )
            yield from _divided(problem, mapped, gpu)


def _tiles(p: Problem, generation: Generation) -> Iterator[Config]:
    """Tiles of one part, and two stages."""
    narrow = next(n for n in (16, 32, 64) if p.in_channels <= n or n == 64)
    for pixels, halo in itertools.product((64, 128), (False, True)):
        for box in _likely_boxes(p, pixels, halo):
            for dy_registers, (m_wgs, n_wgs, ctas), multicast in itertools.product(
                (False, True), WARPGROUPS, ("", "x", "dy")
            ):
                if (narrow < M and not dy_registers) or (m_wgs > 1 and p.out_channels <= M):
                    continue
                if dy_registers and pixels == M and m_wgs * n_wgs * ctas < 2:
                    continue  # nothing would multiply while dy is loaded
                plain = Config(box, narrow, 1, 1, m_wgs, n_wgs, halo, dy_registers, 2, 1, ctas, multicast)
                yield from _large(p, plain, generation)


def _likely_boxes(p: Problem, pixels: int, halo: bool) -> list[tuple[int, ...]]:
    """The few boxes that walk fewest pixels beyond the edges, and load fewest rows of x."""
    found = []
    for box in boxes(pixels, len(p.dims)):
        t = Tiling(p, Config(box, halo=halo))
        if illegal_box(p, t.cfg):
            continue
        steps = sum(steps_of_taps(p, t.cfg)) * t.halo_taps
        found.append((steps * (pixels + math.prod(t.load_pixels)), t.cfg.complexity, box))
    return [box for *_, box in sorted(found)[:MOST_BOXES]]


def _large(p: Problem, tile: Config, generation: Generation) -> Iterator[Config]:
    """The largest tiles of a kind: as many taps as there are registers for, or as many that all tiles have equally many."""
    t = Tiling(p, tile)
    places, one = math.prod(t.tap_loads), t.halo_taps * tile.tile_n // 2  # registers of a load's sums
    most = most_accumulators(p, tile, generation) * tile.n_warpgroups // one
    for loads in (1, 2, 4):
        if loads > -(-p.in_channels // tile.tile_n):
            break
        fitting = [n for n in range(1, min(places, most // loads, MOST_TAPS) + 1) if n * loads % tile.n_warpgroups == 0]
        even = [n for n in fitting if places % n == 0]
        for together in sorted({n[-1] for n in (fitting, even) if n}):
            yield dataclasses.replace(tile, taps_per_tile=together, channel_loads=loads)


def _divided(problem: Problem, tile: Config, gpu: Gpu) -> Iterator[Config]:
    """A tile with as many stages as fit, and its pixels in as many parts as some waves of blocks take."""
    if illegal(problem, tile, gpu):
        return
    t = tiling(problem, tile)
    limit = gpu.generation.smem_limit(tile.ctas_per_sm) - BARRIERS - REDUCTION_BYTES * problem.bias
    fitting = limit // (t.dy_bytes + t.x_bytes)
    if fitting < LEAST_STAGES:
        return
    deep, blocks = min(MOST_STAGES, fitting), gpu.num_sms * tile.ctas_per_sm // tile.cluster
    most = (
        max(steps_of_taps(problem, tile)) // LEAST_STEPS,
        most_workspace(operand_bytes(problem)) // (math.prod(t.out_shape) * 4),
    )
    for parts in sorted({max(1, min(waves * blocks // t.work_tiles, *most)) for waves in WAVES}):
        cfg = dataclasses.replace(tile, stages=deep, split_k=parts)
        if not illegal(problem, cfg, gpu):
            yield cfg

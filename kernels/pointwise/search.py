"""The configurations of the pointwise kernel that may be a problem's fastest."""

import dataclasses
import functools
from collections.abc import Iterator

from ..examples import most_workspace
from ..geometry import boxes
from ..gpu import ANY_HOPPER, Gpu
from .legal import MOST_READS, illegal, illegal_box
from .plan import CHUNK, PIXELS, Config, Problem, Tiling, tiling
from .work import operand_bytes, workspace_bytes

MOST_BOXES = 3
MOST_STAGES = 12
WAVES = (1, 2)  # thread blocks of an SM, one after the other


def candidates(problem: Problem, gpu: Gpu = ANY_HOPPER) -> Iterator[Config]:
    """Legal configurations with as many stages as fit, and with parts for one wave of blocks or two."""
    blocks = -(-problem.in_channels // CHUNK)
    widths = dict.fromkeys(-(-blocks // tiles) * CHUNK for tiles in range(1, MOST_READS + 1))
    for box in _likely_boxes(problem):
        for tile_n in widths:
            plain = Config(box, tile_n)
            deep = next((cfg for cfg in _deepest_first(plain) if not illegal(problem, cfg, gpu)), None)
            yield from _divided(problem, deep, gpu) if deep else ()


@functools.lru_cache(maxsize=256)
def any_fits(problem: Problem) -> bool:
    """Whether there are candidates on a Hopper GPU."""
    return next(candidates(problem), None) is not None


def narrowest(problem: Problem) -> Config:
    """The configuration that needs fewest registers and least shared memory. It may be illegal."""
    blocks = -(-problem.in_channels // CHUNK)
    cfg = Config(_likely_boxes(problem)[0], -(-blocks // MOST_READS) * CHUNK)
    return dataclasses.replace(cfg, stages=tiling(problem, cfg).least_stages)


def _deepest_first(cfg: Config) -> Iterator[Config]:
    return (dataclasses.replace(cfg, stages=stages) for stages in range(MOST_STAGES, 1, -1))


def _likely_boxes(problem: Problem) -> list[tuple[int, ...]]:
    """The few boxes that walk fewest pixels beyond the edges."""
    legal = (Config(box) for box in boxes(PIXELS, len(problem.dims)) if not illegal_box(problem, Config(box)))
    return [cfg.step_pixels for cfg in sorted(legal, key=lambda cfg: (Tiling(problem, cfg).steps, cfg.complexity))][
        :MOST_BOXES
    ]


def _divided(problem: Problem, cfg: Config, gpu: Gpu) -> Iterator[Config]:
    t = tiling(problem, cfg)
    room = most_workspace(operand_bytes(problem)) // workspace_bytes(t)
    for split in sorted({max(1, min(waves * gpu.num_sms // t.blocks, t.steps, room)) for waves in WAVES}):
        if not illegal(problem, divided := dataclasses.replace(cfg, split_k=split), gpu):
            yield divided

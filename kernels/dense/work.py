"""Counts of what a tiling costs: multiply-adds, bytes, steps. Nothing here is a model or a measurement."""

import functools
import itertools
import math
from typing import NamedTuple

from .. import geometry
from ..cost import Work
from ..gpu import ANY_HOPPER, Gpu
from .plan import Config, Problem, Tiling, pixels_as_read, tiling


def useful_macs(problem: Problem) -> int:
    """The multiply-adds of the definition: taps over padding count, stuffed zeros do not."""
    taps = [sum(-(-(d.out_size - p) // d.out_stride) * n for p, n in enumerate(d.count)) for d in problem.dims]
    return problem.batch * problem.groups * problem.in_channels * problem.out_channels * math.prod(taps)


def result_bytes(problem: Problem) -> int:
    """Bytes of all outputs, and of the residual, which is shaped like one."""
    pixels = problem.batch * math.prod(d.out_size for d in problem.dims)
    return pixels * problem.groups * problem.out_channels * problem.out_itemsize * (problem.outputs + problem.residual)


def workspace_bytes(problem: Problem, cfg: Config) -> int:
    """Bytes of sums that lie in global memory from the kernel until XLA has added them."""
    return result_bytes(problem.under(cfg)) if cfg.finished_by_xla else 0


def pixel_bytes(problem: Problem) -> int:
    """Bytes of all pixels that some tap reads. A stride may leave some out."""
    return (
        problem.batch
        * problem.groups
        * problem.in_channels
        * math.prod(map(_inputs_read, problem.dims))
        * problem.itemsize
    )


@functools.lru_cache(maxsize=256)
def _inputs_read(d: geometry.TapAxis) -> int:
    """Number of inputs along one dimension that some tap reads."""
    found: set[int] = set()
    for p, (taps, offset) in enumerate(zip(d.count, d.offset, strict=True)):
        reach = -(-(d.out_size - p) // d.out_stride) * d.in_stride
        for start in range(offset, offset + taps * d.tap_stride, d.tap_stride):
            found.update(range(start, start + reach, d.in_stride))
    return sum(0 <= j < d.in_size for j in found)


def weight_bytes(problem: Problem) -> int:
    """Bytes of all weights."""
    return (
        problem.groups
        * problem.in_channels
        * problem.out_channels
        * math.prod(len(d.order) for d in problem.dims)
        * problem.itemsize
    )


def least_bytes(problem: Problem) -> int:
    """The least traffic with global memory, in bytes: every operand read once, every result written once."""
    return pixel_bytes(problem) + weight_bytes(problem) + result_bytes(problem)


def executed_macs(problem: Problem, cfg: Config) -> int:
    """The multiply-adds the kernel issues, tile by tile: ragged tiles whole, skipped taps not at all."""
    taps = cfg.taps_per_step * tiling(problem, cfg).halo_taps
    return _steps(problem, cfg) * cfg.cluster * cfg.mma_warpgroups * cfg.tile_m * cfg.tile_n * cfg.tile_k * taps


def loaded_bytes(problem: Problem, cfg: Config, num_sms: int) -> int:
    """Bytes that the kernel loads into shared memory. A cluster loads shared weights once, a block its resident ones once."""
    t = tiling(problem, cfg)
    rows = _steps(problem, cfg) * (cfg.cluster * t.pixel_loads * math.prod(t.load_pixels) + t.weight_rows)
    loaded = (rows * cfg.taps_per_step + t.resident_rows * t.workers(num_sms)) * cfg.tile_k * problem.itemsize
    if t.problem.residual:
        loaded += t.work_tiles * cfg.cluster * cfg.mma_warpgroups * cfg.tile_m * cfg.tile_n * t.problem.out_itemsize
    return loaded


def _steps(problem: Problem, cfg: Config) -> int:
    """Number of steps of all clusters together. A step fills one slot of the ring."""
    t = tiling(problem, cfg)
    problem = t.problem
    tiles = list(itertools.product(*map(range, t.m_grid)))
    together, steps = cfg.cluster * t.cta_tiles, 0
    for phase in itertools.product(*(range(d.out_stride) for d in problem.dims)):
        for start in range(0, len(tiles), together):
            unit, counts = tiles[start : start + together], []
            for i, (d, p, extent) in enumerate(zip(problem.dims, phase, t.cta_pixels[1:], strict=True)):
                at = [tile[i + 1] * extent for tile in unit]
                if i == t.halo_dim:
                    counts.append(1)
                    continue
                first, last = d.span(p, min(at), max(at) + extent - 1) if cfg.skip_padding else (0, d.count[p])
                counts.append(last - first)
            counts[-1] = -(-counts[-1] // cfg.taps_per_step)
            steps += math.prod(counts)
    return steps * problem.groups * t.n_tiles * t.k_steps


def skipped_taps(d: geometry.TapAxis, extent: int) -> list[int]:
    """Taps over padding alone, by phase, summed over all tiles of `extent` outputs. Only tiles near either end have any."""
    starts, skipped = range(0, d.rows, extent), []
    for p in range(d.out_stride):
        before = (d.span(p, q, q + extent - 1)[0] for q in starts)
        after = (d.count[p] - d.span(p, q, q + extent - 1)[1] for q in reversed(starts))
        skipped.append(sum(itertools.takewhile(bool, before)) + sum(itertools.takewhile(bool, after)))
    return skipped


def copied_bytes(problem: Problem, cfg: Config) -> int:
    """Bytes that are read and written before the kernel, by im2col or for whole 16 bytes of channels and whole strides."""
    before = problem.batch * problem.groups * problem.in_channels * math.prod(d.in_size for d in problem.dims)
    after = pixels_as_read(problem.under(cfg))
    return (before + after) * problem.itemsize if before != after or cfg.im2col else 0


def count(raw: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> Work:
    """The work of a problem under one of its configurations."""
    t, num_sms = tiling(raw, cfg), gpu.num_sms
    problem, all_units, clusters = t.problem, t.work_tiles, t.workers(num_sms)
    phases = _phases(t)
    row_bytes, taps = cfg.tile_k * problem.itemsize, t.halo_taps * cfg.taps_per_step
    pixel_rows, weight_rows = (
        t.pixel_loads * math.prod(t.load_pixels) * cfg.taps_per_step,
        t.weight_rows * cfg.taps_per_step,
    )
    outputs, chunks = 1 if cfg.finished_by_xla else problem.outputs, cfg.tile_n // cfg.epi_tile_n
    result = cfg.mma_warpgroups * cfg.tile_m * cfg.tile_n * problem.out_itemsize
    return Work(
        itemsize=problem.itemsize,
        mma_warpgroups=cfg.mma_warpgroups,
        cluster=cfg.cluster,
        stages=cfg.stages,
        epi_stages=cfg.epi_stages,
        over_images=cfg.tile_pixels[0] > 1,
        sms=min(num_sms, clusters * cfg.cluster),
        ctas_per_sm=2 if clusters * cfg.cluster > num_sms else 1,
        rounds=_rounds(phases, -(-t.k_steps // cfg.split_k), all_units, clusters, num_sms // cfg.cluster),
        all_steps=sum(p.share * p.mean for p in phases) * all_units * t.k_steps / cfg.split_k,
        macs=cfg.tile_m * cfg.tile_n * cfg.tile_k * taps,
        operand_bytes=cfg.tile_m * (1 + cfg.tile_n / 64) * row_bytes * taps,  # each 64 pixels read the weights
        pixel_bytes=pixel_rows * row_bytes,
        weight_bytes=weight_rows * row_bytes,
        rows=pixel_rows + weight_rows / cfg.cluster,
        copies=cfg.taps_per_step * (t.pixel_loads + (0 if cfg.resident else t.halo_taps)),
        taps=taps,
        pixel_readers=min(t.n_tiles, clusters),
        kept_bytes=t.resident_rows * row_bytes,
        chunks=chunks,
        elements=cfg.tile_m * cfg.epi_tile_n / 128 * outputs,
        stored_bytes=result * (outputs + problem.residual),
        ahead=min((cfg.epi_stages - 1) // outputs, chunks) if problem.residual else None,
        input_bytes=pixel_bytes(problem),
        weights_bytes=weight_bytes(problem),
        held_bytes=_pixels_under_way(t, clusters) + weight_bytes(problem) + clusters * cfg.cluster * result,
        before_bytes=copied_bytes(raw, cfg),
        after_bytes=workspace_bytes(raw, cfg) + result_bytes(raw) if cfg.finished_by_xla else 0,
    )


def _pixels_under_way(t: Tiling, clusters: int) -> float:
    """Bytes of all pixels of the tiles that run together. Parts and tiles of output channels share them."""
    problem, cfg = t.problem, t.cfg
    boxes = clusters / min(cfg.split_k * t.n_tiles, clusters) * cfg.cluster * t.cta_tiles
    return min(pixel_bytes(problem), boxes * math.prod(t.load_pixels) * problem.in_channels * problem.itemsize)


class Phases(NamedTuple):
    """Phases whose tiles take equally many steps over taps.

    share  their part of all phases
    most   steps of a tile that skips none
    mean   steps of a tile on average
    """

    share: float
    most: int
    mean: float


def _rounds(
    phases: list[Phases], part: int, all_units: int, clusters: int, first: int
) -> tuple[tuple[float, float], ...]:
    """Pairs (number of tiles, steps of each) for a block of the busiest SM. part: channel steps of a tile.

    If there are few tiles the slowest decide; many even out. A second block on the SM, `first` clusters later, may have a
    tile less.
    """
    sharing = range(0, clusters, first)
    rounds = sum(-(-(all_units - i) // clusters) for i in sharing) / len(sharing)
    return tuple((rounds * p.share, (p.mean + (p.most - p.mean) / math.sqrt(rounds)) * part) for p in phases)


def _phases(t: Tiling) -> list[Phases]:
    """The phases of a problem, grouped by their steps."""
    problem, cfg, along = t.problem, t.cfg, []
    for i, (d, extent) in enumerate(zip(problem.dims, t.cta_pixels[1:], strict=True)):
        packed = cfg.taps_per_step if i == len(problem.dims) - 1 else 1
        along.append((Phases(1.0, 1, 1.0),) if i == t.halo_dim else _phases_along(d, extent, packed, cfg.skip_padding))
    product = lambda several: Phases(*map(math.prod, zip(*several, strict=True)))
    return [product(several) for several in itertools.product(*along)]


@functools.lru_cache(maxsize=1024)
def _phases_along(d: geometry.TapAxis, extent: int, packed: int, skip: bool) -> tuple[Phases, ...]:
    """The phases of one dimension, grouped by their steps, for tiles of `extent` outputs and `packed` taps in a step."""
    found: dict[int, list[float]] = {}
    for taps, skipped in zip(d.count, skipped_taps(d, extent), strict=True):
        steps, read = -(-taps // packed), 1 - skip * skipped / max(1, taps * -(-d.rows // extent))
        found.setdefault(steps, []).append(steps * read)
    return tuple(Phases(len(means) / d.out_stride, most, sum(means) / len(means)) for most, means in found.items())

"""What a tiling costs, counted: multiply-adds, bytes, steps. Nothing here is a model or a measurement."""

import itertools
import math

from . import taps as geometry
from .config import H100_SMS, Config, Problem, pixels_as_read, tiling, units, workers


def useful_macs(problem: Problem) -> int:
    """The multiply-adds of the definition: taps over padding count, stuffed zeros do not."""
    taps = [sum(-(-(d.out_size - p) // d.out_stride) * n for p, n in enumerate(d.count)) for d in problem.dims]
    return problem.N * problem.G * problem.C * problem.K * math.prod(taps)


def result_bytes(problem: Problem) -> int:
    """Of all outputs, and of the residual, which is like one."""
    pixels = problem.N * math.prod(d.out_size for d in problem.dims)
    return pixels * problem.G * problem.K * problem.out_itemsize * (problem.outputs + problem.residual)


def workspace_bytes(problem: Problem, cfg: Config) -> int:
    """Of sums in global memory, from the kernel until XLA has added them."""
    return result_bytes(problem.under(cfg)) if cfg.finished_by_xla else 0


def least_bytes(problem: Problem) -> int:
    """Of global memory: every operand read once, every result written once."""
    pixels = problem.N * problem.C * math.prod(d.in_size for d in problem.dims)
    weights = problem.C * problem.K * math.prod(len(d.order) for d in problem.dims)
    return problem.G * (pixels + weights) * problem.itemsize + result_bytes(problem)


def executed_macs(problem: Problem, cfg: Config) -> int:
    """The multiply-adds the kernel issues, tile by tile: ragged tiles whole, skipped taps not at all."""
    taps = cfg.taps * tiling(problem, cfg).halo_taps
    return _steps(problem, cfg) * cfg.cluster * cfg.consumers * cfg.pixels * cfg.bn * cfg.bk * taps


def loaded_bytes(problem: Problem, cfg: Config, num_sms: int = H100_SMS) -> int:
    """What the kernel loads into shared memory; weights that a cluster shares, once, and those that stay, once a block."""
    t, seen = tiling(problem, cfg), problem.under(cfg)
    rows = _steps(problem, cfg) * (cfg.cluster * t.loads * math.prod(t.load_box) + t.weights)
    loaded = (rows * cfg.taps + t.kept * workers(problem, cfg, num_sms)) * cfg.bk * problem.itemsize
    if seen.residual:
        loaded += units(problem, cfg) * cfg.cluster * cfg.consumers * cfg.pixels * cfg.bn * seen.out_itemsize
    return loaded


def _steps(problem: Problem, cfg: Config) -> int:
    """Of all clusters together, a step being one slot of the ring."""
    problem = problem.under(cfg)
    t = tiling(problem, cfg)
    tiles = list(itertools.product(*map(range, t.grid)))
    together, steps = cfg.cluster * t.tiles, 0
    for phase in itertools.product(*(range(d.out_stride) for d in problem.dims)):
        for start in range(0, len(tiles), together):
            unit, counts = tiles[start : start + together], []
            for i, (d, p, extent) in enumerate(zip(problem.dims, phase, t.cta_box[1:], strict=True)):
                at = [tile[i + 1] * extent for tile in unit]
                if i == t.halo_dim:
                    counts.append(1)
                    continue
                first, last = d.span(p, min(at), max(at) + extent - 1) if cfg.skip else (0, d.count[p])
                counts.append(last - first)
            counts[-1] = -(-counts[-1] // cfg.taps)
            steps += math.prod(counts)
    return steps * problem.G * t.k_tiles * t.c_steps


def skipped_taps(d: geometry.Dim, extent: int) -> int:
    """Taps over padding alone, of all tiles of so many outputs: only tiles near either end have any."""
    starts, skipped = range(0, d.rows, extent), 0
    for p in range(d.out_stride):
        before = (d.span(p, q, q + extent - 1)[0] for q in starts)
        after = (d.count[p] - d.span(p, q, q + extent - 1)[1] for q in reversed(starts))
        skipped += sum(itertools.takewhile(bool, before)) + sum(itertools.takewhile(bool, after))
    return skipped


def copied_bytes(problem: Problem, cfg: Config) -> int:
    """Read and written before the kernel: to unfold pixels, or to give them whole 16 bytes of channels and whole strides."""
    before = problem.N * problem.G * problem.C * math.prod(d.in_size for d in problem.dims)
    after = pixels_as_read(problem.under(cfg))
    return (before + after) * problem.itemsize if before != after or cfg.unfold else 0

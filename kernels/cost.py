"""The cost model by which tiles are ranked: modelled, unmeasured."""

import math
from typing import NamedTuple

from . import work
from .config import H100_SMS, Config, Problem, tiling

# Constants of the model in `estimate`: all of them modelled, unmeasured.
FLOPS_PER_CLOCK = 4096  # of one SM's tensor cores on 16-bit operands; half of it as TF32
L2_BYTES_PER_CLOCK = 30  # what one SM reads from L2
DRAM_BYTES_PER_CLOCK = 15  # one SM's share of global memory
SMEM_BYTES_PER_CLOCK = 128  # what one SM's tensor cores read of shared memory
CHUNK_CLOCKS = 300  # a chunk of columns, and one more a tile, in which a block alone on its SM multiplies nothing
PASS_CLOCKS = 4000  # of one more kernel after ours: its launch, its first loads, its last stores


class Estimate(NamedTuple):
    """Modelled, unmeasured: good for ranking configurations, not for promises.

    clocks  of the whole product
    macs    multiply-adds issued
    """

    clocks: float
    macs: float


def flops_per_clock(problem: Problem) -> float:
    """Of one SM's tensor cores."""
    return FLOPS_PER_CLOCK * 2 / problem.itemsize


def estimate(problem: Problem, cfg: Config, num_sms: int = H100_SMS) -> Estimate:
    """Waves of tiles, each the slower of its products and its loads from L2; or global memory, if that is slower."""
    copied, workspace, results = (
        work.copied_bytes(problem, cfg),
        work.workspace_bytes(problem, cfg),
        work.result_bytes(problem),
    )
    problem = problem.under(cfg)
    t = tiling(problem, cfg)
    tiles = taps = math.ceil(problem.N / t.cta_box[0])
    for i, (d, n, extent) in enumerate(zip(problem.dims, t.grid[1:], t.cta_box[1:], strict=True)):
        tiles *= n * d.out_stride
        taps *= n * sum(d.count) - (0 if i == t.halo_dim else work.skipped_taps(d, extent))
    count = t.units * problem.phases
    waves = -(-count // (num_sms * cfg.blocks // cfg.cluster))

    macs = cfg.consumers * cfg.pixels * cfg.bn * cfg.bk  # of a step
    multiply = 2 * macs / flops_per_clock(problem)
    row_bytes = cfg.bk * problem.itemsize
    loaded = t.loads * math.prod(t.load_box) / t.halo_taps + t.weights / t.halo_taps / cfg.cluster
    read = cfg.consumers * cfg.pixels * (1 + cfg.bn / 64)  # each 64 pixels read the weights
    steps = taps / tiles * -(-t.c_steps // cfg.split)  # of the largest part
    slowest = max(multiply, loaded * row_bytes / L2_BYTES_PER_CLOCK, read * row_bytes / SMEM_BYTES_PER_CLOCK)
    alone = cfg.blocks == 1  # else the products of the other block hide the epilogue
    epilogue = alone * CHUNK_CLOCKS * (1 + cfg.bn // cfg.columns)
    clocks = waves * (steps * slowest * cfg.blocks + epilogue) + t.kept * row_bytes * cfg.blocks / L2_BYTES_PER_CLOCK

    memory, hidden = DRAM_BYTES_PER_CLOCK * num_sms, work.least_bytes(problem)
    if cfg.split > 1:  # the parts end together: nothing hides that they are stored
        hidden, clocks = hidden - workspace, clocks + workspace / memory
    clocks = max(clocks, hidden / memory) + copied / memory
    if cfg.finished_by_xla:
        clocks += (workspace + results) / memory + PASS_CLOCKS
    executed = count * cfg.cluster * macs * taps / tiles * t.c_steps / cfg.split
    return Estimate(clocks, executed)

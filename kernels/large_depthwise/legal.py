"""The rules that make a configuration of the large-kernel depthwise kernel legal, each with the reason it gives otherwise."""

from ..gpu import ANY_HOPPER, MOST_BARRIERS, Gpu
from .plan import BLOCK, CONSUMERS, ROWS, Config, Problem, Tiling, tiling, words

MOST_BOX = 256  # elements along a dimension of a TMA copy


def illegal(problem: Problem, cfg: Config, gpu: Gpu = ANY_HOPPER) -> str | None:
    """The reason why the kernel does not take a configuration, or None."""
    if cfg.columns < 1 or cfg.columns % BLOCK:
        return f"{cfg.columns=} must be a multiple of {BLOCK}"
    if cfg.strip_rows < 1 or cfg.strip_rows % ROWS:
        return f"{cfg.strip_rows=} must be a multiple of {ROWS}"
    if not 1 <= cfg.stages <= MOST_BARRIERS:
        return f"{cfg.stages=} must be 1 to {MOST_BARRIERS}"
    t = tiling(problem, cfg)
    if (box := max(t.load_columns, t.right_shape[2])) > MOST_BOX:
        return f"{box=} must be at most {MOST_BOX} columns: a TMA copy"
    if (needed := registers(t)) > (limit := gpu.generation.register_limit(CONSUMERS + 1)):
        return f"{needed=} registers must be at most {limit}"
    if (smem_bytes := t.smem_bytes) > (limit := gpu.generation.smem_limit(1)):
        return f"{smem_bytes=} must be at most {limit}"
    return None


def registers(t: Tiling) -> int:
    """Registers of a thread that sums, words of a row and all else need, as ptxas was found to have it."""
    needed = 4 * t.sums + 2 * words(t.blocks, t.steps)
    if t.problem.weight_sums:
        return needed + 53
    return needed + 64 + 14 * (t.resident and t.problem.outputs > 1)

"""The rules that make a configuration legal: a way to pack the groups there are, and a tile that the launched kernel takes."""

from ..gpu import Gpu
from .plan import Config, Problem


def illegal(problem: Problem, config: Config, gpu: Gpu) -> str | None:
    """The reason why a configuration is not taken, or None."""
    if config.family != problem.family.name:
        return f"{config.family=} must be {problem.family.name!r}, whose kernel is launched"
    if config.count not in (possible := [count for count, _ in problem.packings]):
        return f"{config.count=} must be one of {possible}"
    return problem.family.illegal(problem.packing(config.count), config.tile, gpu)

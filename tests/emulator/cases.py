"""Products under explicit configurations, executed from their PTX: the cases of the ladder and of the chosen code paths."""

import dataclasses
import time
from collections.abc import Callable

from pallas_conv.verify.verdict import Verdict, judge
from tests.kernels.cases import baseline, executed
from workloads import paths
from workloads.configured import Case as Case
from workloads.ladder import CASES, LADDER

from .emulate import Emulation, emulation


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The verdict on each output of a run, against float64."""

    verdicts: list[Verdict]
    ran: Emulation
    seconds: float

    @property
    def right(self) -> bool:
        return all(verdict.right for verdict in self.verdicts)

    @property
    def worst(self) -> Verdict:
        return max(self.verdicts, key=lambda verdict: verdict.error / verdict.bound if verdict.finite else float("inf"))


def run(
    case: Case,
    *,
    damage: Callable[[str], str] | None = None,
    timing: tuple[str, int] = ("random", 0),
    each_warp_waits: bool = False,
    key: object = None,
) -> Outcome:
    """The case's own operands, by the very call that the kernels' users make; the rest: see `emulation`."""
    product, operands = case.product, case.operands()
    start = time.perf_counter()
    with emulation(key, damage=damage, timing=timing, each_warp_waits=each_warp_waits) as ran:
        outs = case.kernel.run(*operands)
    seconds = time.perf_counter() - start
    usual = baseline(product, *operands)
    verdicts = [
        judge(dataclasses.replace(product, outputs=(name,)), tuple(operands), got, base)
        for name, got, base in zip(product.outputs, outs, usual, strict=True)
    ]
    return Outcome(verdicts, ran, seconds)


QUICK = {rung.feature: min(rung.cases, key=executed) for rung in LADDER}
EVERY = (*CASES, *paths.cases())


def named(name: str) -> Case:
    return next(case for case in EVERY if case.name == name)

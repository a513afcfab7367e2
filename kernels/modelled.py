"""Times of kernels by the cost model, for what is to be chosen before anything is measured: modelled, unmeasured."""

from collections.abc import Sequence

from . import cost
from .chips import chips
from .serve import Kernel


def microseconds(kernels: Sequence[Kernel], passed_bytes: float = 0) -> float:
    """The time of kernels under their configurations, one after the other, on the chip as it was measured, or nominally is.

    passed_bytes: of global memory, that XLA reads and writes in a pass before the first of them, beside those of its copies.
    """
    total = 0.0
    for i, kernel in enumerate(kernels):
        family, chip = kernel.family, chips(kernel.gpu)[0]
        asked = family.work(family.problem(kernel.product), kernel.config, kernel.gpu)
        before = asked.before_bytes + (int(passed_bytes) if i == 0 else 0)
        total += chip.microseconds(cost.clocks(asked._replace(before_bytes=before), chip))
    return total

"""Times of kernels by the cost model, for what is to be chosen before anything is measured: modelled, unmeasured."""

from . import cost
from .chips import Chip, chips
from .gpu import Gpu
from .serve import Kernel


def microseconds(kernel: Kernel) -> float:
    """The time of a kernel under its configuration, with XLA's passes before and after it."""
    family, chip = kernel.family, _chip(kernel.gpu)
    asked = family.work(family.problem(kernel.product), kernel.config, kernel.gpu)
    return chip.microseconds(cost.clocks(asked, chip))


def pass_microseconds(nbytes: float, gpu: Gpu) -> float:
    """The time that a program takes to read and write so many bytes of global memory."""
    return nbytes / _chip(gpu).dram_tbs * 1e-6


def _chip(gpu: Gpu) -> Chip:
    """The chip as it was measured, or as it is nominally."""
    return chips(gpu)[0]

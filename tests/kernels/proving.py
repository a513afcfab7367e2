"""The proof of a case of any family: run in Mosaic's interpreter with race detection, and held against float64."""

import jax

from pallas_conv.kernels import mosaic
from tests.kernels import cases
from tests.kernels.cases import Case


def run(case: Case, operands: list[jax.Array]) -> list[jax.Array]:
    """The results of a case, whose operands these are."""
    outs = mosaic.run_interpreted(lambda *a: case.kernel.run(*a, interpret=True), *operands, detect_races=True)
    jax.effects_barrier()  # whatever counted, has
    return outs


def prove(case: Case) -> None:
    """Raise unless the case is right and free of races."""
    operands = case.operands()
    cases.check(case.product, run(case, operands), operands)

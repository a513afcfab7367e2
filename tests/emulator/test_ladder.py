"""The cases that the interpreter is proven with, executed from their PTX, and judged by the same float64 reference."""

import pytest

from pallas_conv.kernels.depthwise import DEPTHWISE
from pallas_conv.kernels.tap_blocks import TAP_BLOCKS
from tests.emulator import cases
from tests.emulator.faults import Fault
from tests.emulator.timing import MODES
from tests.kernels.cases import executed
from tests.kernels.dense.proving import generated
from tests.kernels.depthwise import mutants
from tests.kernels.depthwise.proving import generated as generated_depthwise
from tests.kernels.large_depthwise import mutants as large_mutants
from tests.kernels.large_depthwise.proving import generated as generated_large_depthwise
from tests.kernels.packed_groups.proving import generated as generated_packed_groups
from tests.kernels.pointwise.proving import generated as generated_pointwise
from tests.kernels.wgrad.proving import generated as generated_weight_gradient

pytestmark = pytest.mark.aot

QUICK = cases.QUICK.values()
# Blocks of taps are launches of the depthwise kernel, which has rungs of its own: a forward and a weight gradient show how they
# come together.
BLOCKS = [cases.QUICK["tap blocks: residual"], cases.QUICK["tap blocks: bias gradient"]]
# Plain pointwise kernels do nothing that those with a bias gradient or a derivative do not.
PLAIN = [
    cases.QUICK[f"pointwise: {name}"]
    for name in ("one step", "several blocks", "more blocks than SMs", "slots used again")
]
OFTEN = [case for case in QUICK if (case.kernel.family is not TAP_BLOCKS or case in BLOCKS) and case not in PLAIN]
EXTENDED = [case for case in cases.EVERY if case not in OFTEN]


def prove(case: cases.Case, timing: tuple[str, int] = ("random", 0)) -> None:
    outcome = cases.run(case, timing=timing, key=case)
    assert outcome.right, outcome.worst
    on_tensor_cores = outcome.ran["wgmma"] + outcome.ran["mma"] > 0
    by_lanes = case.kernel.family in (DEPTHWISE, TAP_BLOCKS) and case.product.compute_dtype == "float32"
    assert on_tensor_cores == (executed(case) > 0 and not by_lanes)


def test_every_rung_has_a_case():
    assert list(cases.QUICK) == [rung.feature for rung in cases.LADDER]


# The quickest cases of the rungs of weight gradients have one tap; those of other mutants are run in test_wrong_kernels.py.
TAPS = (mutants.WEIGHTS_OF_PHASES, large_mutants.FLIPPED)


@pytest.mark.parametrize(
    "case", [*OFTEN, *TAPS, *(pytest.param(c, marks=pytest.mark.extended) for c in EXTENDED)], ids=str
)
def test_right_as_compiled(case):
    prove(case)


@pytest.mark.extended
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "random"])
@pytest.mark.parametrize("case", cases.CASES, ids=str)
def test_right_whatever_the_timing(case, mode):
    prove(case, (mode, 0))


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    "generate",
    [
        generated,
        generated_weight_gradient,
        generated_depthwise,
        generated_large_depthwise,
        generated_packed_groups,
        generated_pointwise,
    ],
    ids=["dense", "wgrad", "depthwise", "large_depthwise", "packed_groups", "pointwise"],
)
def test_generated(seed, generate):
    prove(generate(seed))


def test_where_a_slot_is_released_by_one_warp_of_a_warpgroup():
    """The assumption of README.md: what one warp's wait_group has seen end has read its operands for all four warps."""
    case = cases.QUICK["residual"]
    prove(case)
    with pytest.raises(Fault, match="a race: overwrites what a wgmma reads"):
        cases.run(case, each_warp_waits=True, key=case)

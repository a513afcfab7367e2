"""Depthwise products in blocks of taps, in Mosaic's interpreter, with race detection, against float64.

What the launches multiply and load is counted, and held against the plan. Launches that are broken must be found wrong.
"""

import dataclasses

import pytest

from pallas_conv.kernels.depthwise import work as depthwise_work
from pallas_conv.kernels.tap_blocks import TAP_BLOCKS, blocks, sm90, work
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.mutating import WRONG
from tests.kernels.proving import prove
from tests.kernels.tap_blocks.proving import generated
from workloads.ladder import tap_blocks as ladder

pytestmark = pytest.mark.usefixtures("dropped_axes")


# Each way of coming together, with what the kernel has to add.
OFTEN = ("tap blocks, 4x6, bias, residual, relu", "tap blocks dx, 4x6, asymmetric padding", "tap blocks dw, 4x6, bias")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.extended] * (case.name not in OFTEN)) for case in ladder.CASES],
    ids=str,
)
def test_right_and_executed_as_planned(case, counted_products):
    prove(case)
    problems, cfg = TAP_BLOCKS.problem(case.product), case.config
    assert len(problems) > 1
    executed = counted_products["macs"] * problems[0].group
    assert cases.useful(case.product) <= executed == work.executed_macs(problems, cfg)
    assert counted_products["bytes"] == sum(depthwise_work.loaded_bytes(problem, cfg) for problem in problems)


def test_the_cases_of_every_run_are_on_the_ladder():
    assert {case.name for case in ladder.CASES} > set(OFTEN)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.extended
def test_generated(seed):
    prove(generated(seed))


# ------------------------------------------------------------ broken ones

FUSED = next(case for case in ladder.CASES if "bias, residual, relu" in case.name)
GRADIENT = next(case for case in ladder.CASES if case.name == "tap blocks dx, 4x6, asymmetric padding")
WEIGHTS = next(case for case in ladder.CASES if case.name == "tap blocks dw, 4x6")


def changed(case: Case, change, monkeypatch) -> None:
    """Prove a case whose blocks are not what they should be."""
    found = tuple(change(i, block) for i, block in enumerate(blocks.blocks(case.product)))
    monkeypatch.setattr(sm90, "blocks", lambda product: found)
    prove(case)


def moved(i, block):
    """The block with its first dimension one pixel further, from the second on."""
    spec = block.product.spec
    (low, high), *others = spec.padding
    there = dataclasses.replace(spec, padding=((low - (i > 0), high + (i > 0)), *others))
    return block._replace(product=dataclasses.replace(block.product, spec=there))


def of_the_first_taps(i, block):
    size = block.taps[0].stop - block.taps[0].start
    return block._replace(taps=(slice(0, size), *block.taps[1:]))


@pytest.mark.parametrize("case", [pytest.param(FUSED, marks=pytest.mark.extended), GRADIENT], ids=str)
@pytest.mark.parametrize("change", [pytest.param(moved, marks=pytest.mark.extended), of_the_first_taps])
def test_blocks_in_the_wrong_place_are_wrong(case, change, monkeypatch):
    with WRONG:
        changed(case, change, monkeypatch)


@pytest.mark.extended
def test_weight_gradients_of_a_block_one_pixel_further_are_wrong(monkeypatch):
    with WRONG:
        changed(WEIGHTS, moved, monkeypatch)


@pytest.mark.extended
def test_weights_that_are_not_flipped_are_wrong(monkeypatch):
    monkeypatch.setattr(sm90.lax, "rev", lambda w, axes: w)
    with WRONG:
        prove(GRADIENT)

"""Can the emulator fail? Kernels that are wrong in one place, in their PTX or in Python, and what it says of each."""

import re

import pytest

from pallas_conv.kernels import mosaic
from pallas_conv.kernels.dense import operands as dense_operands
from pallas_conv.kernels.dense import sm90
from pallas_conv.kernels.depthwise.pixel_sums import PixelSums
from pallas_conv.kernels.depthwise.weight_sums import WeightSums
from pallas_conv.kernels.pointwise.consumer import Consumer
from pallas_conv.kernels.pointwise.producer import Producer
from pallas_conv.kernels.store import TileStore
from pallas_conv.kernels.wgrad import sm90 as wgrad
from tests.emulator import damages, depthwise_damages, large_depthwise_damages, pointwise_damages, wgrad_damages
from tests.emulator.cases import run
from tests.emulator.damages import PLAIN, WRONG, every, matches, said
from tests.emulator.faults import Unsupported
from tests.kernels.dense.mutants import ADDING, AHEAD, FLIPPED, KEEPING, MUTANT, drop_a_tap
from tests.kernels.depthwise import mutants as depthwise_mutants
from tests.kernels.mutating import nothing, release_before_multiplying, within
from tests.kernels.pointwise import mutants as pointwise_mutants
from tests.kernels.wgrad import mutants

pytestmark = pytest.mark.aot

DAMAGES = [
    damage
    for of_family in (damages, wgrad_damages, depthwise_damages, large_depthwise_damages, pointwise_damages)
    for damage in of_family.DAMAGES
]
# Each has a neighbour of the same kind that is found sooner.
SLOW = {
    "depthwise backward: the derivative of other pixels",
    "depthwise backward: drop .trans of every ldmatrix",
    "large depthwise: swap two registers of A",
    "large depthwise: swap two registers of B",
    "large depthwise: swap two pixels that are transposed",
    "large depthwise: even results in the place of odd ones",
    "large depthwise: swap two results that are merged",
    "large depthwise dw: swap two registers of A",
    "large depthwise dw: an mma that does not add to its sums",
}
PLACE = re.compile(r"block \d+ warp \d+ at \w+\.py:\d+, `[^`]+`: ")


@pytest.mark.parametrize(
    "damage", [pytest.param(d, marks=[pytest.mark.extended] * (d.name in SLOW)) for d in DAMAGES], ids=str
)
def test_what_is_said_of_damaged_ptx(damage):
    heard = said(damage.case, damage.change, key=damage.case)
    assert matches(damage.says, heard), heard
    assert heard.startswith(WRONG) or PLACE.match(heard), heard


def test_slow_damages_are_some_of_all():
    assert {damage.name for damage in DAMAGES} > SLOW


UNDAMAGED = pytest.mark.parametrize("case", list(dict.fromkeys(damage.case for damage in DAMAGES)), ids=str)


@UNDAMAGED
def test_undamaged(case):
    assert run(case, key=case).right


@pytest.mark.extended
@UNDAMAGED
def test_nothing_is_said_of_an_undamaged_kernel_under_any_timing(case):
    assert said(case, key=case) == ""


@pytest.mark.parametrize(
    ("known", "unknown"),
    [
        (r"add\.s32", "add.sat.s32"),
        (r"cvt\.rn\.bf16x2\.f32", "cvt.rz.bf16x2.f32"),
        (r"shfl\.sync\.idx\.b32", "shfl.sync.up.b32"),
        (r"ld\.global\.", "ld.volatile.global."),
        (r"mbarrier\.try_wait\.", "mbarrier.test_wait."),
        (r"fence\.proxy\.async", "fence.proxy.alias"),
        (r"\.f32\.bf16\.bf16", ".f32.e4m3.e4m3"),
        (r"bulk\.tensor\.4d\.shared", "bulk.tensor.4d.im2col.shared"),
    ],
)
def test_an_unknown_instruction_is_never_skipped(known, unknown):
    with pytest.raises(Unsupported, match=rf"\w+\.py:\d+, `.*{re.escape(unknown)}"):
        said(PLAIN, every(known, unknown), key=PLAIN)


# Damaged in Python: the cases of the interpreter's mutations, for which the interpreter has its own words.


@pytest.mark.parametrize(
    ("kernel", "case"),
    [(sm90._Kernel, MUTANT), (wgrad._Kernel, mutants.MUTANT), (wgrad._Kernel, mutants.REGISTERS)],
    ids=["dense", "wgrad", "dy_in_registers"],
)
def test_a_slot_released_before_it_is_multiplied(monkeypatch, kernel, case):
    """The interpreter does not race-check what wgmma reads: there this shows as wrong numbers only."""
    release_before_multiplying(monkeypatch, kernel, case.config.stages)
    wanted = "a race: overwrites what|still reads"
    assert matches(wanted, heard := said(case)), heard


@pytest.mark.parametrize(
    ("part", "method", "dropped", "case", "says"),
    [
        (sm90._Kernel, "_consume", "barrier_wait", MUTANT, "nobody has written|a race: reads what TMA"),
        (sm90._Kernel, "_consume", "barrier_wait", KEEPING, "nobody has written|a race: reads what TMA"),
        (sm90._Kernel, "_consume", "wgmma_wait", MUTANT, "touches accumulators of a wgmma|still reads"),
        (sm90._Kernel, "_produce", "barrier_wait", MUTANT, "more arrivals in a phase|still reads"),
        (TileStore, "store", "commit_smem", MUTANT, "without fence.proxy.async|a race: reads"),
        (TileStore, "store", "wait_smem_to_gmem", MUTANT, "still reads"),
        (
            TileStore,
            "store",
            "barrier_wait",
            ADDING,
            "a race: reads what TMA|nobody has written|still writing",
        ),
        (TileStore, "prefetch_residual", "wait_smem_to_gmem", AHEAD, "still reads"),
        (wgrad._Kernel, "_consume", "barrier_wait", mutants.MUTANT, "nobody has written|a race: reads what TMA"),
        (wgrad._Kernel, "_consume", "wgmma_wait", mutants.MUTANT, "touches accumulators of a wgmma|still reads"),
        (wgrad._Kernel, "_produce", "barrier_wait", mutants.HALO, "more arrivals in a phase|still reads"),
        (wgrad._Kernel, "_multiply", "wgmma_wait", mutants.MUTANT, "a race: overwrites what a wgmma|still reads"),
        (wgrad._Kernel, "_multiply", "wgmma_wait", mutants.REGISTERS, "a race: overwrites what a wgmma|registers of A"),
        (PixelSums, "consume", "commit_smem", depthwise_mutants.MUTANT, "without fence.proxy.async|a race"),
        (
            WeightSums,
            "add_tile",
            "barrier_wait",
            depthwise_mutants.WEIGHTS,
            "nobody has written|a race: reads what TMA|still writing",
        ),
        (PixelSums, "_sum", "wait_smem_to_gmem", depthwise_mutants.MUTANT, "still reads"),
        (Producer, "_go_through", "commit_smem", pointwise_mutants.PREPARED, "without fence.proxy.async|a race: reads"),
        (Producer, "_load_cotangent", "barrier_wait", pointwise_mutants.MUTANT, "more arrivals in a phase|still reads"),
        (
            Consumer,
            "_multiply",
            "wgmma_wait",
            pointwise_mutants.KEEPING,
            "touches accumulators of a wgmma|still reads|a race: over",
        ),
        *(
            (PixelSums, "_sum", "barrier_wait", case, "nobody has written|a race: reads what TMA|still writing")
            for case in (depthwise_mutants.MUTANT, depthwise_mutants.RESIDUAL)
        ),
    ],
)
def test_what_is_said_of_a_kernel_without(monkeypatch, part, method, dropped, case, says):
    within(monkeypatch, part, method, **{dropped: nothing})
    assert matches(says, heard := said(case)), heard


def test_a_chunk_released_before_it_is_summed(monkeypatch):
    depthwise_mutants.release_before_summing(monkeypatch)
    assert matches("a race: overwrites what|still reads", heard := said(depthwise_mutants.MUTANT)), heard


@pytest.mark.parametrize(
    ("drop", "case"),
    [(drop_a_tap, MUTANT), (depthwise_mutants.drop_a_tap, depthwise_mutants.MUTANT)],
    ids=["dense", "depthwise"],
)
def test_a_dropped_tap_is_wrong(monkeypatch, drop, case):
    drop(monkeypatch)
    assert said(case).startswith(WRONG)


def test_a_dropped_box_of_pixels_is_wrong(monkeypatch):
    mutants.drop_a_box(monkeypatch)
    assert said(mutants.MUTANT).startswith(WRONG)


def test_weights_in_another_order_are_wrong(monkeypatch):
    monkeypatch.setattr(dense_operands, "reordered", lambda w, axis, order: w)
    assert said(FLIPPED).startswith(WRONG)


def test_what_is_not_stored_is_wrong(monkeypatch):
    """Memory of results is full of NaN: no output is right by accident."""
    monkeypatch.setattr(mosaic, "copy_smem_to_gmem", nothing)
    assert said(MUTANT).startswith(WRONG)


def test_a_pattern_that_is_not_found_is_no_damage():
    with pytest.raises(LookupError):
        run(PLAIN, damage=every("no such text"), key=PLAIN)

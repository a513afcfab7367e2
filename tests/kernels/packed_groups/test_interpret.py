"""Packed groups in Mosaic's interpreter, with race detection, against float64. Those packed wrongly must be found wrong."""

import jax.numpy as jnp
import pytest

from pallas_conv.kernels.packed_groups import PACKED_GROUPS, packing, sm90, work
from tests.kernels import cases
from tests.kernels.mutating import WRONG
from tests.kernels.packed_groups.proving import generated, prove
from workloads.ladder import packed_groups as ladder
from workloads.ladder.rung import covering

pytestmark = pytest.mark.usefixtures("dropped_axes")

OFTEN = covering(ladder.LADDER, ladder.features)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.extended] * (case not in OFTEN)) for case in ladder.CASES], ids=str
)
def test_right_and_executed_as_planned(case, count):
    assert PACKED_GROUPS.reasons(case.product) == ()
    prove(case)
    executed = work.executed_macs(PACKED_GROUPS.problem(case.product), case.config)
    assert cases.useful(case.product) * case.config.count <= count["macs"] == executed


@pytest.mark.parametrize("seed", [pytest.param(n, marks=[pytest.mark.extended] * (n > 0)) for n in range(80)])
def test_generated(seed):
    prove(generated(seed))


# ------------------------------------------------------------ broken ones

BY_NAME = {case.name: case for case in ladder.CASES}


def test_weights_of_other_groups_are_wrong(monkeypatch):
    """Blocks beside the diagonal."""
    turned = lambda w, product, count: jnp.roll(packing.block_diagonal(w, product, count), 1, axis=1)
    monkeypatch.setattr(sm90, "block_diagonal", turned)
    with WRONG:
        prove(BY_NAME["packed groups, a channel multiplier of twelve, all in one"])


def test_gradients_beside_the_diagonal_are_wrong(monkeypatch):
    beside = lambda dw, product, count: packing.diagonal_blocks(jnp.roll(dw, 2, axis=1), product, count)
    monkeypatch.setattr(sm90, "diagonal_blocks", beside)
    with WRONG:
        prove(BY_NAME["packed groups dw, nine in, two out, s2, five in one"])

"""The cost model, whatever a kernel is: constants of a chip count, and in the right direction."""

import dataclasses

import pytest

from pallas_conv.kernels import chips, cost
from tests.kernels.products import PRODUCTS, some

NOMINAL = chips.chips()[0]


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(chips.Chip) if f.name != "clock"])
def test_a_worse_chip_is_never_faster(field):
    """A worse constant makes no product faster, and some product slower: every constant counts."""
    value = getattr(NOMINAL, field)
    more_is_better = field in (*chips.RATES, "l2_merge")
    worse = dataclasses.replace(NOMINAL, **{field: value / 2 if more_is_better else 2 * value + 200})
    slower = 0
    for name in PRODUCTS:
        for cfg, work in some(name):
            was, now = (cost.clocks(work, chip) for chip in (NOMINAL, worse))
            assert now >= was * (1 - 1e-9), (name, str(cfg))
            slower += now > was
    assert slower

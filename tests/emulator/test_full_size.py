"""Products of the suite as they are launched: every tensor map is legal, and the last cluster, of ragged tiles, is right."""

import pytest

from pallas_conv.kernels.dense import DENSE
from tests.emulator import full_size

pytestmark = [pytest.mark.aot, pytest.mark.extended]


@pytest.mark.parametrize("name", full_size.served(DENSE))
def test_the_last_cluster(name):
    part = full_size.run(name, clusters=[-1])
    assert part.ran["wgmma"] > 0
    assert part.verdict is None or part.verdict.right, part.verdict

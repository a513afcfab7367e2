"""Constants of a chip: those that were measured of it, or of one alike, or all that are plausible."""

import dataclasses

from pallas_conv.kernels import chips
from pallas_conv.kernels.gpu import HOPPER, Gpu


def test_a_measured_device_replaces_all_guesses(measured_chips):
    measured_chips()
    guesses, pcie = chips.chips(Gpu(132)), Gpu(114, "NVIDIA H100 PCIe")
    measured_chips(chips.Measured("NVIDIA H100 PCIe", 114, {"l2_clk": 24, "l2_merge": 0}, "run.jsonl"))
    (found,) = chips.chips(pcie)
    assert found == dataclasses.replace(guesses[0], l2_clk=24, l2_merge=0)
    assert chips.chips(dataclasses.replace(pcie, num_sms=78)) == (found,)
    assert chips.chips(Gpu(114, "another kind of as many SMs")) == (found,)
    assert chips.chips(Gpu(114, generation=dataclasses.replace(HOPPER, capability=(10, 0)))) == guesses
    assert chips.chips(Gpu(132, "NVIDIA H100 80GB HBM3")) == guesses == chips.chips()
    assert len(guesses) > 3

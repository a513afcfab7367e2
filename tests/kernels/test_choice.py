"""The choice among a family's candidates: least worst regret over the chips that the device may be."""

import pytest

from pallas_conv.kernels import chips, choice, cost
from pallas_conv.kernels.gpu import ANY_HOPPER, Gpu
from tests.kernels.products import PRODUCTS, counted, posed


class WithoutCandidates:
    name = "hypothetical"

    def candidates(self, problem, gpu):
        return iter(())


def test_where_nothing_can_be_chosen_the_error_says_for_which_problem():
    words = r"the hypothetical kernel has no legal configuration to choose from for a problem on Gpu\(num_sms=132"
    with pytest.raises(ValueError, match=words):
        choice.best(WithoutCandidates(), "a problem", ANY_HOPPER)


def test_worst_regrets():
    times = [[1.0, 4.0], [2.0, 2.0], [1.5, 3.0]]
    assert choice.worst_regrets(times) == [2.0, 2.0, 1.5]


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_choice_is_of_least_worst_regret(name, measured_chips):
    """The choice has the least worst regret of all candidates, though it prices only the likely ones on all chips."""
    measured_chips()
    found = counted(name)
    fewest = min(map(cost.executed, found.values()))
    found = {cfg: work for cfg, work in found.items() if cost.executed(work) <= choice.WASTEFUL * fewest}
    times = [[cost.clocks(work, chip) for chip in chips.chips()] for work in found.values()]
    regrets = dict(zip(found, choice.worst_regrets(times), strict=True))
    assert regrets[choice.best(*posed(name), ANY_HOPPER)] <= choice.CLOSE * min(regrets.values())


def test_on_a_device_that_was_measured_it_is_the_fastest(measured_chips):
    measured_chips(chips.Measured("NVIDIA H100 PCIe", 114, {"l2_clk": 24, "l2_merge": 0}, "run.jsonl"))
    gpu = Gpu(114, "NVIDIA H100 PCIe")
    (chip,) = chips.chips(gpu)
    clocks = {cfg: cost.clocks(work, chip) for cfg, work in counted("halo", gpu).items()}
    assert clocks[choice.best(*posed("halo"), gpu)] <= choice.CLOSE * min(clocks.values())

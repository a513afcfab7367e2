"""The order in which a weight gradient multiplies, without a kernel: each pixel meets all partners that the definition says."""

import itertools
import random
from typing import Any

import pytest

from pallas_conv.kernels.depthwise.plan import ONE, Config, Problem
from pallas_conv.kernels.depthwise.tiling import Tiling, tiling
from pallas_conv.kernels.depthwise.weight_sums import Products, WeightSums
from pallas_conv.kernels.geometry import ConvAxis, TapAxis


def one_channel(dims: tuple[TapAxis, ...], ndim: int, outputs: int, bias: bool) -> Problem:
    """A weight gradient, or with an output a whole backward pass, of groups of one channel."""
    sizes = dict.fromkeys(("batch", "group", "pixel_group", "output_group"), 1)
    return Problem(**sizes, channels=32, dims=dims, ndim=ndim, outputs=outputs, weight_sums=True, bias=bias)


class Recorder:
    """An engine whose sums are the lists of what was added to them."""

    together, at_once = 2, 1

    def hold_back(self) -> None: ...

    def sum_pixels(self, acc: list[Any], xs: list[Any], partner: Any) -> list[Any]:
        return [*acc, (partner, xs)]


def some_tiling(rng: random.Random) -> Tiling:
    """A tile of any geometry: strides, dilations, phases without taps, kernels of one column."""
    pick, ndim = rng.choice, rng.choice((1, 2, 2, 3))
    while True:
        dims = [
            ConvAxis(
                in_size=9,
                out_size=9,
                kernel=rng.randint(1, 4 if ndim == 3 else 7),
                stride=pick((1, 1, 2, 3)),
                base=pick((1, 1, 2, 3)),
                dilation=pick((1, 1, 2, 3)),
                low=rng.randint(0, 3),
                flip=pick((True, False)),
            ).dim()
            for _ in range(ndim)
        ]
        if all(sum(d.count) for d in dims):
            break
    outputs, bias = pick((0, 1)), pick((True, False))
    problem = one_channel((*[ONE] * (3 - ndim), *dims), ndim, outputs=outputs, bias=bias)
    return tiling(problem, Config((1, rng.randint(1, 3), 16)))


@pytest.mark.parametrize("seed", range(200))
def test_every_tap_is_multiplied_once_with_the_pixels_of_its_row(seed):
    t = some_tiling(random.Random(f"products {seed}"))
    kernel = WeightSums.__new__(WeightSums)
    kernel.engine = Recorder()
    products = Products(kernel.engine, {taps: [] for taps in t.problem.accumulators}, 14)
    planes, most_waiting = range(t.reaches[0].length + 1), 0
    for row, plane in itertools.product(range(t.tile_rows), planes):
        load = lambda moves, row=row, plane=plane: {move: (plane, row, move) for move in moves}
        kernel.add_row(products, t.row_terms[plane, row], load, lambda key: key)
        kept = {fragment for pixels in products.waiting.values() for fragment in pixels.values()}
        most_waiting = max(most_waiting, len(kept))
    found = [
        (key, tap, pixels)
        for taps, added in products.all().items()
        for key, xs in added
        for tap, pixels in zip(taps, xs, strict=True)
    ]
    wanted = [
        (key, term.tap, (*where, term.move))
        for where, into in t.row_terms.items()
        for key, terms in into.items()
        for term in terms
    ]
    assert sorted(found) == sorted(wanted)
    issued = 2 * (sum(map(len, products.sums.values())) + len(t._ones_of_rows))
    assert t.issued_products == issued + t.problem.backward * len(wanted)
    assert most_waiting <= t.problem.waiting  # as registers are counted


def test_the_last_taps_of_two_rows_share_an_accumulator():
    axis = ConvAxis(in_size=9, out_size=9, kernel=7, low=3).dim()
    problem = one_channel((ONE, axis, axis), 2, outputs=0, bias=False)
    assert len(problem.accumulators) == 7 * 3 + 3 + 1
    assert {(6, 13), (20, 27), (34, 41), (48,)} <= set(problem.accumulators)

"""The two views of a shared buffer address the same bytes.

TMA writes boxes [pixels..., columns] under a swizzle and wgmma reads tiles of (8, columns) under the same swizzle
(`mosaic.two_views`). JAX's text promises nothing about reading through another member of a union than was written, and the
interpreter cannot show it, so here both address maps are written down from the PTX ISA's description of swizzling and
compared byte for byte; and the compiled program is checked to use the mode and the strides assumed.
"""

import itertools
import math
import re

import numpy as np
import pytest

from compiled import kernels
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.dense.search import candidates
from pallas_conv.kernels.geometry import boxes
from pallas_conv.kernels.wgrad import plan as wgrad_plan
from pallas_conv.kernels.wgrad import search as wgrad_search
from tests.kernels import cases
from workloads import ladder


def swizzled(address: np.ndarray, swizzle: int) -> np.ndarray:
    """PTX ISA, swizzling modes: the 16-byte units of an address are permuted.

    Bits 7, 8, 9 of the address (the line of 128 bytes) are xored onto bits 4, 5, 6 (the unit in the line); a swizzle of
    64 bytes uses the lower two of each, one of 32 bytes the lowest.
    """
    bits = int(math.log2(swizzle // 16))
    return address ^ (((address >> 7) & ((1 << bits) - 1)) << 4)


def tma_address(box: tuple[int, ...], columns: int, itemsize: int) -> np.ndarray:
    """Address at which TMA puts element [*pixel, column] of a box: row-major, then swizzled."""
    linear = np.arange(math.prod(box) * columns).reshape(math.prod(box), columns) * itemsize
    return swizzled(linear, columns * itemsize)


def wgmma_address(rows: int, columns: int, itemsize: int) -> np.ndarray:
    """Address at which wgmma reads element [row, column] of a matrix: tiles of (8, columns), row-major, one after the other."""
    row, column = np.indices((rows, columns))
    tile, within = row // 8, (row % 8) * columns + column  # a tile is as wide as the matrix
    return swizzled((tile * 8 * columns + within) * itemsize, columns * itemsize)


WIDTHS = [
    (columns, itemsize) for itemsize in (2, 4) for columns in (8, 16, 32, 64) if columns * itemsize in (32, 64, 128)
]


@pytest.mark.parametrize(("columns", "itemsize"), WIDTHS)
def test_the_views_agree_on_every_box(columns, itemsize):
    for box in {box for pixels in (64, 128) for nd in (1, 2, 3) for box in boxes(pixels, nd)}:
        pixels = math.prod(box)
        np.testing.assert_array_equal(tma_address(box, columns, itemsize), wgmma_address(pixels, columns, itemsize))


@pytest.mark.parametrize(("columns", "itemsize"), WIDTHS)
def test_the_views_agree_on_every_consumers_slice_of_a_halo(columns, itemsize):
    """A slice that starts at a multiple of 8 pixels is the tiled matrix that starts there: its base is a whole pattern."""
    for row, taps, step, consumers in itertools.product((8, 16, 32), (2, 3, 5), (1, 2, 3), (1, 2)):
        extent = 64 // row
        box = (1, extent * consumers + (taps - 1) * step, row)
        written = tma_address(box, columns, itemsize)
        for consumer, tap in itertools.product(range(consumers), range(taps)):
            start = (consumer * extent + tap * step) * row
            base = start * columns * itemsize
            assert base % (8 * columns * itemsize) == 0
            np.testing.assert_array_equal(written[start : start + 64], base + wgmma_address(64, columns, itemsize))


def test_the_views_would_disagree_at_an_unaligned_start():
    """The model can tell: a slice from 3 pixels on is not the tiled matrix that starts there."""
    written = tma_address((1, 16, 8), 64, 2)
    assert (written[3 : 3 + 64] != 3 * 128 + wgmma_address(64, 64, 2)).any()


def test_every_slot_of_a_chosen_configuration_starts_a_pattern():
    """Slots, taps and loads lie one after the other: each must start at a multiple of the swizzle's pattern of 8 rows."""
    for case in ladder.dense.CASES:
        for cfg in [case.config, *itertools.islice(candidates(Problem.of(case.product)), 40)]:
            assert math.prod(tiling(Problem.of(case.product), cfg).load_pixels) % 8 == 0
            assert cfg.tile_n % 8 == 0
            assert cfg.tile_m % 8 == 0
    for case in ladder.wgrad.CASES:
        problem = wgrad_plan.Problem.of(case.product)
        for cfg in [case.config, *itertools.islice(wgrad_search.candidates(problem), 40)]:
            t = wgrad_plan.tiling(problem, cfg)
            assert [it % 8 for it in (math.prod(t.load_pixels), t.halo_row, cfg.pixels, cfg.tile_n)] == [0, 0, 0, 0]


@pytest.mark.aot
@pytest.mark.parametrize("bk", [16, 32, 64])
def test_the_compiled_program_assumes_the_same(bk):
    """wgmma's descriptors in the PTX: this swizzle mode, and 8 rows from one tile to the next."""
    p = cases.product("fprop", 2, (bk, 64), (16, 16), 3, 1, 1)
    _, used = kernels.compiled(p, Config((1, 8, 8), 64, tile_k=bk, stages=2))
    descriptors = _descriptors(used.ptx)
    assert descriptors
    mode = {128: 1, 64: 2, 32: 3}[bk * 2]
    for descriptor in descriptors:
        assert descriptor >> 62 == mode
        assert (descriptor >> 32) & 0x3FFF == 8 * bk * 2 >> 4  # stride between tiles, in 16 bytes


def _descriptors(ptx: str) -> list[int]:
    """The constant part of wgmma's matrix descriptors: 64-bit constants with a swizzle mode in the top bits."""
    constants = {int(n) % 2**64 for n in re.findall(r"or\.b64\s+%\w+, %\w+, (-?\d+);", ptx)}
    return [n for n in constants if n >> 62]

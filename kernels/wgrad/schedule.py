"""The order of tiles in a thread block, and the pixels that each sums over: scalar arithmetic in the kernel.

Tiles are (part of the pixels, example, group, tap tile, tile of input channels n, tile of output channels m), of which the last
varies fastest: tiles that run together read the same pixels from L2. The clusters of a launch are persistent: worker s takes
tiles s, s + workers, ...

A tile's taps read inside of x for some rows of dy only, those between the first that its last tap meets and the last that its
first tap does. Boxes of pixels outside of them are left out; the others are divided evenly among the parts.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ..scalars import Scalar, Span, floor_div, unravel
from .plan import Config, Problem, Tiling


class Tile(NamedTuple):
    """Indices of one tile. k_part: that of the `split_k` parts of the pixels, over which it sums: the K of its products."""

    k_part: Array
    example: Array
    group: Array
    tap_tile: Array
    n_tile: Array
    m_tile: Array


class Reduction(NamedTuple):
    """The boxes of pixels that a tile sums over, one a step.

    steps    those of the tile's `k_part`: numbers of boxes among all that its taps need; the last dimension varies fastest
    first    the first box that is needed along every spatial dimension
    extents  how many are: along (images, *pixels)
    """

    steps: Span
    first: list[Array]
    extents: list[Array]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The tiles of a problem under a configuration, on so many SMs."""

    tiling: Tiling
    num_sms: int

    @property
    def problem(self) -> Problem:
        """The problem as the kernel computes it."""
        return self.tiling.problem

    @property
    def cfg(self) -> Config:
        return self.tiling.cfg

    @property
    def workers(self) -> int:
        """Number of persistent clusters."""
        return self.tiling.workers(self.num_sms)

    def tiles_of(self, worker: Scalar) -> Array:
        """Number of tiles that a worker takes."""
        return lax.div(self.tiling.work_tiles - worker + self.workers - 1, jnp.int32(self.workers))

    def tile(self, worker: Scalar, i: Array, cta: Scalar) -> Tile:
        """The i-th tile of a worker, as one block of its cluster has it: the two blocks have neighbouring channels."""
        t, p, multicast = self.tiling, self.problem, self.cfg.multicast
        of_n, of_m = 1 + (multicast == "dy"), 1 + (multicast == "x")
        sizes = [p.examples, p.groups, t.tap_tiles, t.n_tiles // of_n, t.m_tiles // of_m]
        (example, group, tap_tile, n_tile, m_tile), k_part = unravel(worker + i * self.workers, sizes)
        n_tile, m_tile = (
            (n_tile * 2 + cta, m_tile) if of_n == 2 else (n_tile, m_tile * 2 + cta if of_m == 2 else m_tile)
        )
        return Tile(k_part, example, group, tap_tile, n_tile, m_tile)

    def place(self, tile: Tile, u: Scalar) -> Array:
        """Number of the u-th place at which a tile loads x, among all of them. It may be past the last."""
        return tile.tap_tile * self.cfg.taps_per_tile + u

    def taps(self, tile: Tile, u: int) -> list[Array]:
        """The taps, by dimension, for which a tile loads x the u-th time: along a halo the first one.

        Past the last place it is the last again, whose sums are then cut off.
        """
        last = math.prod(self.tiling.tap_loads) - 1
        found, _ = unravel(jnp.minimum(self.place(tile, u), last), self.tiling.tap_loads)
        return found

    def reduction(self, tile: Tile) -> Reduction:
        """The boxes of pixels that a tile sums over: its part of those that its taps need."""
        taps = [self.taps(tile, u) for u in range(self.cfg.taps_per_tile)]
        first, extents = [], [jnp.int32(self.tiling.image_steps)]
        for i, (d, e) in enumerate(zip(self.problem.dims, self.cfg.step_pixels[1:], strict=True)):
            low, high = (functools.reduce(f, [tap[i] for tap in taps]) for f in (jnp.minimum, jnp.maximum))
            high = high + (self.tiling.halo_taps - 1 if i == self.tiling.halo_dim else 0)
            row, end = d.outputs_met(low, high, jnp.clip, floor_div)
            if self.problem.bias:  # which the first tap tile sums, over all pixels
                row, end = jnp.where(tile.tap_tile == 0, 0, row), jnp.where(tile.tap_tile == 0, d.rows, end)
            first.append(lax.div(row, jnp.int32(e)))
            extents.append(jnp.maximum(lax.div(end + e - 1, jnp.int32(e)) - first[-1], 0))
        total = functools.reduce(lambda a, b: a * b, extents)
        cut = lambda part: floor_div(total * part, self.cfg.split_k)
        return Reduction(Span(cut(tile.k_part), cut(tile.k_part + 1)), first, extents)

    def pixels(self, tile: Tile, reduction: Reduction, step: Array) -> tuple[Array, Array, list[Array]]:
        """The place of a step's box: its first image in x, its first image in dy, and its first row in every dimension.

        An operand of two pieces has the images of its second one after those of the first (see `operands.pieces`). The terms
        of a product are (first, first), (second, first) and (first, second).
        """
        p, box = self.problem, self.cfg.step_pixels
        boxes = []
        for extent in reduction.extents[:0:-1]:
            boxes.append(lax.rem(step, extent))
            step = lax.div(step, extent)
        rows = [(a + b) * e for a, b, e in zip(reduction.first, boxes[::-1], box[1:], strict=True)]
        image, own = step * box[0], tile.example * p.batch
        if p.terms == 1:
            return image + own, image + own, rows
        term = lax.div(image, jnp.int32(p.batch))
        image = image - term * p.batch + own
        second = p.examples * p.batch
        return image + jnp.where(term == 1, second, 0), image + jnp.where(term == 2, second, 0), rows

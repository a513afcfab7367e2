"""The order of strips in a thread block: scalar arithmetic in the kernel.

A strip is some tiles one below the other, of one image and one block of channels. Strips are (image, planes, rows, columns,
channels), of which the last varies fastest: blocks that run together read whole pixels. Worker s takes s, s + workers, ...
There are as many workers for each block of channels, so each has the same channels, and their weights, for all its strips.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ..scalars import unravel
from .plan import Config, Problem
from .tiling import Tiling


class Strip(NamedTuple):
    """A strip: its image, the first plane, row and column of its outputs in a phase, its first channel, its number of tiles."""

    image: Array
    plane: Array
    row: Array
    column: Array
    channel: Array
    tiles: Array


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The strips of a problem under a configuration, on so many SMs."""

    tiling: Tiling
    num_sms: int

    @property
    def problem(self) -> Problem:
        return self.tiling.problem

    @property
    def cfg(self) -> Config:
        return self.tiling.cfg

    @property
    def workers(self) -> int:
        """Number of persistent thread blocks."""
        return self.tiling.workers(self.num_sms)

    def strips_of(self, worker: Array) -> Array:
        """Number of strips that a worker takes."""
        return lax.div(self.tiling.strips - worker + self.workers - 1, jnp.int32(self.workers))

    def strip(self, worker: Array, i: Array) -> Strip:
        """The i-th strip of a worker."""
        (image, *space, block), _ = unravel(worker + i * self.workers, self.tiling.grid)
        planes, rows, _ = self.cfg.tile_pixels
        extents = planes, rows * self.cfg.strip_tiles, self.cfg.columns
        plane, row, column = [at * extent for at, extent in zip(space, extents, strict=True)]
        tiles = jnp.minimum(self.tiling.row_tiles - space[1] * self.cfg.strip_tiles, self.cfg.strip_tiles)
        return Strip(image, plane, row, column, block * self.cfg.channels, tiles)

    def chunks(self, strip: Strip) -> Array:
        """Number of chunks of input rows that a strip reads."""
        return strip.tiles * self.tiling.advance + (self.tiling.tile_chunks - self.tiling.advance)

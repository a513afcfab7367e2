"""The order of strips in a thread block: scalar arithmetic in the kernel.

A strip is some eights of output rows of an image, one below the other, so many columns wide, of eight channels. Strips are
(image, rows, columns, channels), of which the last varies fastest: blocks that run together read whole pixels. Worker s takes
s, s + workers, ... There are as many workers for each block of channels, so each has the same channels for all its strips.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ..scalars import unravel
from .plan import CHANNELS, Problem, Rows, Tiling, rows_read


class Strip(NamedTuple):
    """A strip: its image, its first row, column and channel, and the input rows that it reads."""

    image: Array
    row: Array
    column: Array
    channel: Array
    rows: Rows


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The strips of a problem under a configuration, on so many SMs."""

    tiling: Tiling
    num_sms: int

    @property
    def problem(self) -> Problem:
        return self.tiling.problem

    @property
    def workers(self) -> int:
        """Number of thread blocks."""
        return self.tiling.workers(self.num_sms)

    def strips_of(self, worker: Array) -> Array:
        """Number of strips that a worker takes."""
        return lax.div(self.tiling.strips - worker + self.workers - 1, jnp.int32(self.workers))

    def strip(self, worker: Array, i: Array) -> Strip:
        """The i-th strip of a worker."""
        (image, down, across, block), _ = unravel(worker + i * self.workers, self.tiling.grid)
        row = down * self.tiling.cfg.strip_rows
        rows = rows_read(self.tiling, row, _clip)
        return Strip(image, row, across * self.tiling.cfg.columns, block * CHANNELS, rows)

    def items(self, strip: Strip) -> tuple[Array | int, Array]:
        """The items [first, last) that are loaded of a strip: of sums over taps its chunks.

        Item i of a weight gradient are eight rows of the cotangent, from row 8 i of the strip on, and chunk i - late. Before
        chunk 0, and after the last one, nobody reads the pixels of an item.
        """
        rows = strip.rows
        if not self.problem.weight_sums:
            return rows.first, rows.last
        return 0, jnp.maximum(rows.late + rows.last, self.tiling.output_tiles)


def _clip(value: Array, by: int, low: Array | int, high: int) -> Array:
    return jnp.clip(lax.div(jnp.maximum(value, 0), jnp.int32(by)), low, high)

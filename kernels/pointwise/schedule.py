"""The part of the work that a thread block has, and the pixels of its steps: scalar arithmetic in the kernel."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from .. import mosaic as mgpu
from ..scalars import Scalar, floor_div, unravel
from ..views import box_at
from .operands import Views
from .plan import CHUNK, CONSUMERS, Config, Problem, Tiling


class Part(NamedTuple):
    """A thread block's part of the work: some steps of an example, for a tile of input channels.

    number: which of the `split_k` parts of the pixels. first: its first step, among all of the example. steps: how many it has.
    """

    number: Array
    example: Array
    n_tile: Array
    first: Array
    steps: Array


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The parts of a launch. Blocks that read the same cotangent are neighbours."""

    views: Views

    @property
    def tiling(self) -> Tiling:
        return self.views.tiling

    @property
    def problem(self) -> Problem:
        return self.tiling.problem

    @property
    def cfg(self) -> Config:
        return self.tiling.cfg

    def part(self, worker: Array) -> Part:
        """The part of a thread block."""
        t, cuts = self.tiling, self.cfg.split_k
        (number, example, n_tile), _ = unravel(worker, [cuts, self.problem.examples, t.n_tiles])
        first, last = (floor_div(t.steps * (number + i), cuts) for i in (0, 1))
        return Part(number, example, n_tile, first, last - first)

    def pixels(self, part: Part, step: Array) -> list[Array]:
        """(image, *pixel) at which a step begins. step: its number in the part."""
        at, _ = unravel(part.first + step, self.tiling.grid)
        image, *rows = [place * extent for place, extent in zip(at, self.cfg.step_pixels, strict=True)]
        return [part.example * self.problem.batch + image, *rows]

    def window(self, part: Part, step: Array) -> tuple[Any, ...]:
        """Indices, but for channels, of a step's pixels in x, in the cotangent and in what was saved."""
        still = [jnp.int32(0)] * len(self.problem.dims)
        return self.views.pixels.at(self.pixels(part, step), still, self.cfg.step_pixels, 0)

    def own_window(self, part: Part, step: Array, me: Array) -> tuple[Any, ...]:
        """Indices, but for channels, of a consumer's pixels of a step in the input gradient."""
        cfg, p = self.cfg, self.problem
        first = self.pixels(part, step)
        first[cfg.split_axis] += me * cfg.consumer_pixels[cfg.split_axis]
        sizes = (p.examples * p.batch, *(d.in_size for d in p.dims))
        past_end = tuple(n * extent for n, extent in zip(self.tiling.grid, cfg.step_pixels, strict=True))
        images, *rows = box_at(first, cfg.consumer_pixels, sizes, past_end, one_image=self.views.pixels.one_image)
        return self.views.results.window([images, *rows], [jnp.int32(0)] * len(p.dims), 0)

    def in_channels(self, part: Part, block: Scalar) -> Any:
        """Input channels of one of a part's blocks of them."""
        return mgpu.ds(part.n_tile * self.cfg.tile_n + block * CHUNK, CHUNK)

    def own(self, index: tuple[int, ...], me: Array) -> tuple[Any, ...]:
        """The place in a step's box of a line of a consumer's own pixels. index: its place among those."""
        axis = self.cfg.split_axis - self.views.pixels.one_image
        extent = self.cfg.step_pixels[self.cfg.split_axis] // CONSUMERS
        if axis == len(index):  # the line itself is divided
            return (*index, mgpu.ds(me * extent, extent))
        return tuple(at + me * extent if i == axis else at for i, at in enumerate(index))


def out_channels(chunk: Array | int) -> Any:
    """Output channels of a chunk, which may be more than there are."""
    return mgpu.ds(chunk * CHUNK, CHUNK)

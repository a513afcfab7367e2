"""The order of tiles in a thread block, and the taps and channels that each needs: scalar arithmetic in the kernel.

Tiles are (phase of each dimension, tile of pixels m, part of the channels k, group, tile of output channels n), of which the
last varies fastest; a tile of pixels is that of a whole cluster. The clusters of a launch are persistent: worker s takes tiles
s, s + workers, ... in waves of one phase, of equal work (but for a channel step, if they do not divide into parts).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from ..scalars import Scalar, Span, floor_div, select, unravel
from .plan import Config, Problem, Tiling


class Tile(NamedTuple):
    """Indices of one tile; `phase` has one entry per spatial dimension."""

    phase: list[Array]
    k_part: Array
    group: Array
    n_tile: Array
    m_tile: Array


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The tiles of a problem under a configuration, on so many SMs."""

    tiling: Tiling
    num_sms: int

    @property
    def problem(self) -> Problem:
        """The problem that is left to the kernel."""
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

    def tile(self, worker: Scalar, i: Array) -> Tile:
        """The i-th tile of a worker.

        Tiles come in waves of one for every worker. A wave is of one phase, so that SMs that run together have as many taps
        each, and all phases have theirs before the next. The last wave has the tiles that are left. With two phases of five
        tiles each, and three workers:

            wave 0, phase 0    wave 0, phase 1    wave 1, phase 0    wave 1, phase 1
            tiles 0 1 2        tiles 0 1 2        tiles 3 4          tiles 3 4
        """
        index, phase_index = worker + i * self.workers, jnp.int32(0)
        if (phases := self.problem.phases) > 1:
            wave = lax.div(index, jnp.int32(self.workers * phases))
            in_wave = index - wave * (self.workers * phases)
            width = jnp.minimum(self.tiling.work_tiles_of_phase - wave * self.workers, self.workers)
            phase_index, index = lax.div(in_wave, width), wave * self.workers + lax.rem(in_wave, width)
        (k_part, group, n_tile), m_tile = unravel(index, [self.cfg.split_k, self.problem.groups, self.tiling.n_tiles])
        phase, _ = unravel(phase_index, [d.out_stride for d in self.problem.dims])
        return Tile(phase, k_part, group, n_tile, m_tile)

    def first_pixel(self, m_tile: Array, cta: Scalar, consumer: Scalar) -> list[Array]:
        """The first (image, *pixel) of a consumer in a block of the cluster; past the last image if it has no tile."""
        first = self._pixel(self._pixel_tile(m_tile, cta, consumer))
        if self.cfg.halo:
            first[self.tiling.halo_dim + 1] += consumer * self.cfg.tile_pixels[self.tiling.halo_dim + 1]
        return first

    def _pixel_tile(self, m_tile: Array, cta: Scalar, consumer: Scalar) -> Array:
        """Number of a consumer's tile among those of a phase's pixels. With a halo, all consumers of a block share one."""
        shared = self.tiling.cta_tiles == 1
        within = cta if shared else cta * self.cfg.mma_warpgroups + consumer
        return m_tile * (self.cfg.cluster * self.tiling.cta_tiles) + within

    def _pixel(self, tile: Array) -> list[Array]:
        at, over = unravel(tile, self.tiling.m_grid)
        at[0] += over * self.tiling.m_grid[0]
        return [a * extent for a, extent in zip(at, self.tiling.cta_pixels, strict=True)]

    def tap_spans(self, tile: Tile) -> list[Span]:
        """Spans of taps, one a dimension, that some consumer of the cluster needs: others read padding only (TapAxis.span)."""
        tiling, cfg = self.tiling, self.cfg
        last = math.prod(tiling.m_grid) - 1  # a consumer without a tile must not ask for taps that no other needs
        tiles = [self._pixel_tile(tile.m_tile, c, k) for c in range(cfg.cluster) for k in range(tiling.cta_tiles)]
        firsts = [self._pixel(jnp.minimum(t, last)) for t in tiles]
        spans = []
        for i, (d, p, extent) in enumerate(zip(self.problem.dims, tile.phase, tiling.cta_pixels[1:], strict=True)):
            count, offset = select(d.count, p), select(d.offset, p)
            if i == tiling.halo_dim:
                spans.append(Span(jnp.int32(0), jnp.int32(1)))  # all of them, at once
            elif not cfg.skip_padding:
                spans.append(Span(jnp.int32(0), count))
            else:
                low, high = (functools.reduce(f, [at[i + 1] for at in firsts]) for f in (jnp.minimum, jnp.maximum))
                spans.append(Span(*d.taps_met(count, offset, low, high + extent - 1, jnp.clip, floor_div)))
        return spans

    def tap_groups(self, span: Span) -> Array:
        """Number of steps for a span of taps of the last dimension, cfg.taps_per_step of them at a time."""
        return floor_div(span.count + self.cfg.taps_per_step - 1, self.cfg.taps_per_step)

    def channel_span(self, tile: Tile) -> Span:
        """The channel steps of a tile's part. All parts have some, and none has two more than another."""
        first = lambda part: floor_div(part * self.tiling.k_steps, self.cfg.split_k)
        return Span(first(tile.k_part), first(tile.k_part + 1))

    def steps(self, tile: Tile, spans: Sequence[Span]) -> Array:
        """Number of steps of a tile with these taps: all dimensions times channels."""
        *others, last = spans
        steps = self.tap_groups(last) * self.channel_span(tile).count
        return functools.reduce(lambda n, span: n * span.count, others, steps)

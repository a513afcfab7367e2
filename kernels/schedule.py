"""Which tile a thread block works on next, and which taps and channels it needs: scalar arithmetic in the kernel.

Tiles are (phase of each dimension, part of the channels, group, output-channel tile, unit), a unit being the pixels of
one cluster. The clusters of a launch are persistent: worker s takes tiles s, s + workers, ... in waves of one phase, of
equal work (but for a channel step, if they do not divide into parts).
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from .config import Config, Problem, Tiling, tiling, units, workers

type Scalar = Array | int


def unravel(index: Array, sizes: Sequence[int]) -> tuple[list[Array], Array]:
    """The mixed-radix digits of an index, and what is left of it."""
    digits = []
    for n in reversed(sizes):
        digits.append(lax.rem(index, jnp.int32(n)) if n > 1 else jnp.int32(0))
        index = lax.div(index, jnp.int32(n)) if n > 1 else index
    return digits[::-1], index


def ravel(digits: Sequence[Array], sizes: Sequence[int]) -> Array:
    """The inverse of `unravel`."""
    return functools.reduce(lambda index, at: index * at[1] + at[0], zip(digits, sizes, strict=True), jnp.int32(0))


def pick(values: tuple[int, ...], i: Array) -> Array:
    """values[i], from constants."""
    others = range(1, len(values)) if len(set(values)) > 1 else ()
    return functools.reduce(lambda out, j: jnp.where(i == j, values[j], out), others, jnp.int32(values[0]))


def floor_div(value: Array, by: int, least: int = 0) -> Array:
    """value // by, for a value of at least `least`: lax.div rounds towards zero, so it gets what is not negative."""
    if by == 1:
        return value
    shift = -(-max(-least, 0) // by)
    return lax.div(value + shift * by, jnp.int32(by)) - shift


class Tile(NamedTuple):
    """Indices of one tile; `phase` has one entry per spatial dimension."""

    phase: list[Array]
    part: Array
    group: Array
    k_tile: Array
    unit: Array


@dataclasses.dataclass(frozen=True)
class Span:
    """A range [first, last)."""

    first: Array
    last: Array

    @property
    def count(self) -> Array:
        return self.last - self.first


def next_step(walk: Sequence[Span], at: Sequence[Array]) -> list[Array]:
    """The indices after these, the last of them first: the order in which slots are filled, without a division."""
    found: list[Array] = []
    carry: Scalar = 1
    for span, index in zip(reversed(walk), reversed(at), strict=True):
        ends = index + carry == span.last
        found.insert(0, jnp.where(ends, span.first, index + carry))
        carry = ends.astype(jnp.int32)
    return found


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The tiles of a problem under a configuration, on so many SMs."""

    problem: Problem
    cfg: Config
    num_sms: int

    @functools.cached_property
    def tiling(self) -> Tiling:
        return tiling(self.problem, self.cfg)

    @property
    def workers(self) -> int:
        """Persistent clusters."""
        return workers(self.problem, self.cfg, self.num_sms)

    def tiles_of(self, worker: Scalar) -> Array:
        """How many tiles a worker takes."""
        return lax.div(units(self.problem, self.cfg) - worker + self.workers - 1, jnp.int32(self.workers))

    def tile(self, worker: Scalar, i: Array) -> Tile:
        """The i-th tile of a worker."""
        t, p = worker + i * self.workers, jnp.int32(0)
        if (phases := self.problem.phases) > 1:
            wave = lax.div(t, jnp.int32(self.workers * phases))
            t = t - wave * (self.workers * phases)
            width = jnp.minimum(self.tiling.units - wave * self.workers, self.workers)
            p, t = lax.div(t, width), wave * self.workers + lax.rem(t, width)
        (part, group, k_tile), unit = unravel(t, [self.cfg.split, self.problem.G, self.tiling.k_tiles])
        phase, _ = unravel(p, [d.out_stride for d in self.problem.dims])
        return Tile(phase, part, group, k_tile, unit)

    def first_pixel(self, unit: Array, cta: Scalar, consumer: Scalar) -> list[Array]:
        """The first (image, *pixel) of a consumer in a block of the cluster; past the last image if it has no tile."""
        first = self._pixel(self._pixel_tile(unit, cta, consumer))
        if self.cfg.halo:
            first[self.tiling.halo_dim + 1] += consumer * self.cfg.box[self.tiling.halo_dim + 1]
        return first

    def _pixel_tile(self, unit: Array, cta: Scalar, consumer: Scalar) -> Array:
        """Which of the tiles of a phase's pixels; all consumers of a block share one if there is but one."""
        shared = self.tiling.tiles == 1
        within = cta if shared else cta * self.cfg.consumers + consumer
        return unit * (self.cfg.cluster * self.tiling.tiles) + within

    def _pixel(self, tile: Array) -> list[Array]:
        at, over = unravel(tile, self.tiling.grid)
        at[0] += over * self.tiling.grid[0]
        return [a * extent for a, extent in zip(at, self.tiling.cta_box, strict=True)]

    def tap_spans(self, tile: Tile) -> list[Span]:
        """The taps of each dimension that some consumer of the cluster needs: others read padding only (Dim.span)."""
        tiling, cfg = self.tiling, self.cfg
        last = math.prod(tiling.grid) - 1  # a consumer without a tile must not ask for taps that no other needs
        tiles = [self._pixel_tile(tile.unit, c, k) for c in range(cfg.cluster) for k in range(tiling.tiles)]
        firsts = [self._pixel(jnp.minimum(t, last)) for t in tiles]
        spans = []
        for i, (d, p, extent) in enumerate(zip(self.problem.dims, tile.phase, tiling.cta_box[1:], strict=True)):
            count, offset = pick(d.count, p), pick(d.offset, p)
            if i == tiling.halo_dim:
                spans.append(Span(jnp.int32(0), jnp.int32(1)))  # all of them, at once
            elif not cfg.skip:
                spans.append(Span(jnp.int32(0), count))
            else:
                low, high = (functools.reduce(f, [at[i + 1] for at in firsts]) for f in (jnp.minimum, jnp.maximum))
                before = floor_div((high + extent - 1) * d.in_stride + offset, d.step, min(d.offset))
                first = jnp.clip(-before, 0, count)
                least = d.in_size - 1 - d.rows * d.in_stride - max(d.offset)
                until = floor_div(d.in_size - 1 - low * d.in_stride - offset, d.step, least) + 1
                spans.append(Span(first, jnp.clip(until, first, count)))
        return spans

    def tap_groups(self, span: Span) -> Array:
        """Steps that a span of taps of the last dimension takes, cfg.taps of them at a time."""
        return floor_div(span.count + self.cfg.taps - 1, self.cfg.taps)

    def channel_span(self, tile: Tile) -> Span:
        """The channel steps of a tile's part: all parts have some, and none has two more than another."""
        first = lambda part: floor_div(part * self.tiling.c_steps, self.cfg.split)
        return Span(first(tile.part), first(tile.part + 1))

    def steps(self, tile: Tile, spans: Sequence[Span]) -> Array:
        """Steps of a tile of these taps: of all dimensions times channels."""
        *others, last = spans
        steps = self.tap_groups(last) * self.channel_span(tile).count
        return functools.reduce(lambda n, span: n * span.count, others, steps)

    def following(self, slot: Array) -> Array:
        """The next slot of the ring."""
        return jnp.where(slot == self.cfg.stages - 1, 0, slot + 1)

    def preceding(self, slot: Array) -> Array:
        return jnp.where(slot == 0, self.cfg.stages - 1, slot - 1)

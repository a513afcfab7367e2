"""The dense convolution kernel for Hopper: a persistent, warp-specialised implicit GEMM over phases and taps.

For a `geometry.TapAxis` per spatial dimension, channels last,

    z[n, q * out_stride + p, g, o] = bias[g, o] + residual[n, q * out_stride + p, g, o] + sum_{taps i of phase p, channels c}
                                     x[n, q * in_stride + offset[p] + i * tap_stride, g, c] * w[first[p] + i, g, o, c]

One producer warpgroup walks tiles, taps and channels and loads boxes of pixels and rows of weights by TMA into a ring
of slots; what lies outside reads as zero, so padding costs nothing. The consumer warpgroups multiply every slot: each
its own box of pixels with the weights that all share. TMA stores clip what lies outside the output. Weights of few
channels are loaded once, and stay (Config.resident).

If the output has too few tiles for the chip, several blocks share the channels of one (Config.split_k): the kernel then
stores bare float32 sums, side by side like groups, and XLA adds them, always in the same order, in one pass. It does so
too where taps are output channels (Config.col2im_dims); see remap.py.

Three choices that a reader may wonder about:

- Why not `emit_pipeline`, Pallas's own? Its blocks are those of a BlockSpec, which cannot begin outside of the array, cannot be
  multicast in a cluster, and serve one step each. Here a load may serve several taps, and one consumer stores its tile while
  the other multiplies and the producer loads ahead for the next.
- Why this raster? Tiles of output channels vary first, so that those which run together read the same pixels from L2.
  Activations are the larger operand as a rule; a snake over both, as matrix products have it, saves weights that L2 holds
  anyway.
- Why no `setmaxnreg`? The 168 registers that each of three warpgroups gets by default hold the 128 accumulators of the largest
  tiles and the epilogue without spills. The producer's share would allow tiles of up to 192 accumulators, which read less
  shared memory for each product: not tried.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from pallas_conv.spec import Product

from .. import mosaic as mgpu
from ..epilogue import Epilogue
from ..gpu import Gpu
from ..layouts import channels_first
from ..ring import Ring
from ..scalars import Scalar, Span, next_step, ravel, select, unravel
from ..store import Buffers, Destination, Staging, TileStore
from ..views import box_at, lines, pad
from .legal import illegal
from .operands import Views, channels_last_operands
from .plan import Config, Problem, adds_zeros, tiling
from .remap import finished, prepared
from .schedule import Schedule, Tile
from .work import useful_macs


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the kernel of a product that `served.reasons` has nothing against. Arrays are channels first.

    fprop: x (N, C, *in), w (O, C / groups, *kernel), b (O,) if product.bias, r (N, O, *out) if product.residual
           -> (N, O, *out) for each of product.outputs
    dgrad: ct (N, O, *out), w (O, C / groups, *kernel) -> [(N, C, *in)]

    With product.models, every array has that axis first.
    """
    raw = Problem.of(product)
    epilogue = Epilogue(product.activation, product.outputs) if product.role == "fprop" else Epilogue()
    if why := illegal(raw, cfg, gpu):
        raise ValueError(why)
    x, w, bias, residual = channels_last_operands(product, operands)
    x, w = prepared(x, w, raw.dims, cfg)
    schedule = Schedule(tiling(raw, cfg), gpu.num_sms)
    stored = jnp.dtype(jnp.float32 if cfg.finished_by_xla else product.out_dtype)
    views = Views(schedule.problem, cfg, x.dtype, stored, interpret)
    kernel = _Kernel(schedule, views, Epilogue() if cfg.finished_by_xla else epilogue)
    given: dict[str, Array | np.ndarray] = {"x": views.pixels.view(x), "w": views.weights(w)}
    if bias is not None and not cfg.finished_by_xla:
        given["bias"] = pad(bias, [(0, 0), (0, schedule.tiling.n_tiles * cfg.tile_n - schedule.problem.out_channels)])
    if adds_zeros(product, cfg):
        given["bias"] = np.zeros((raw.groups, schedule.tiling.n_tiles * cfg.tile_n), np.float32)
    if residual is not None and not cfg.finished_by_xla:
        given["residual"] = views.results.whole(residual)

    out_type = [jax.ShapeDtypeStruct(views.results.shape, stored)] * kernel.staging.outputs
    size = lambda a: math.prod(a.shape) * a.dtype.itemsize
    cost = mgpu.CostEstimate(
        flops=2 * useful_macs(raw), transcendentals=0, bytes_accessed=sum(map(size, [*given.values(), *out_type]))
    )
    cluster: dict[str, Any] = {"cluster": (cfg.cluster,), "cluster_names": ("cta",)} if cfg.cluster > 1 else {}
    outs = mgpu.kernel(
        functools.partial(kernel.body, tuple(given)),
        out_type=out_type,
        grid=(schedule.workers,),
        grid_names=("sm",),
        **cluster,
        num_threads=cfg.mma_warpgroups + 1,
        thread_name="wg",
        scratch_types=kernel.scratch_types(),
        kernel_name=name,
        cost=cost,
        interpret=interpret,
    )(*given.values())
    outs = [views.results.result(out) for out in outs]
    if cfg.finished_by_xla:
        outs = finished(outs[0], raw, cfg, bias, residual, epilogue, product.out_dtype)
    return [channels_first(out, product.models) for out in outs]


class _Global(NamedTuple):
    """The operands and results in global memory, as the views below make them."""

    x: Any
    w: Any
    bias: Any
    residual: Any
    outs: tuple[Any, ...]


class _Shared(NamedTuple):
    """The shared memory of a block: every buffer as TMA and as wgmma see it, and the barriers."""

    a_tma: Any  # [stages, taps, pixel_loads, *load_pixels, tile_k]
    a_mma: Any  # [stages, taps, pixel_loads, prod(load_pixels), tile_k]
    b_tma: Any  # [stages, taps, halo_taps, tile_n, tile_k], or resident [all taps, k_steps, tile_n, tile_k]
    b_mma: Any
    staging: Buffers
    ring: Ring
    resident_ready: Any  # resident weights are there


class _Kernel:
    """The kernel's body. Its fields are static numbers; everything traced is an argument of a method."""

    def __init__(self, schedule: Schedule, views: Views, epilogue: Epilogue):
        self.schedule, self.views, self.interpret = schedule, views, views.interpret
        self.problem, self.cfg, self.tiling = schedule.problem, schedule.cfg, schedule.tiling
        self.dims, cfg = self.problem.dims, self.cfg
        self.staging = Staging(
            box=views.pixels.box(cfg.tile_pixels),
            columns=cfg.epi_tile_n,
            chunks=cfg.tile_n // cfg.epi_tile_n,
            buffers=cfg.epi_stages,
            epilogue=epilogue,
            dtype=views.out_dtype,
            interpret=views.interpret,
        )

    def scratch_types(self) -> list[Any]:
        cfg, tiling = self.cfg, self.tiling
        views = functools.partial(mgpu.two_views, interpret=self.interpret)
        copies = cfg.taps_per_step * (tiling.pixel_loads + (0 if cfg.resident else tiling.halo_taps))
        weights = tiling.resident_blocks if cfg.resident else (cfg.stages, cfg.taps_per_step, tiling.halo_taps)
        return [
            views(
                (cfg.stages, cfg.taps_per_step, tiling.pixel_loads),
                self.views.pixels.box(tiling.load_pixels),
                cfg.tile_k,
                self.views.dtype,
            ),
            views(weights, (cfg.tile_n,), cfg.tile_k, self.views.dtype),
            self.staging.buffers_type(cfg.mma_warpgroups),
            *Ring.barriers(cfg.stages, copies, cfg.mma_warpgroups, cfg.cluster),
            *([self.staging.residual_barriers(cfg.mma_warpgroups)] if self.problem.residual else []),
            *([mgpu.Barrier(num_arrivals=math.prod(tiling.resident_blocks))] if cfg.resident else []),
        ]

    # The kernel.

    def body(self, names: tuple[str, ...], *refs: Any) -> None:
        """Run one warpgroup, as the producer or as a consumer. names: those of the operands, which `refs` begins with."""
        cfg, n_in, n_out = self.cfg, len(names), self.staging.outputs
        operands = dict.fromkeys(("bias", "residual")) | dict(zip(names, refs[:n_in], strict=True))
        gmem = _Global(**operands, outs=refs[n_in : n_in + n_out])
        a_smem, b_smem, out_smem, full, empty, *others = refs[n_in + n_out :]
        views: list[Any] = []
        for smem in (a_smem, b_smem, out_smem):
            views.extend((smem, smem) if self.interpret else tuple(smem))
        residual_full = others.pop(0) if self.problem.residual else None
        resident_ready = others.pop(0) if cfg.resident else None
        a_tma, a_mma, b_tma, b_mma, out_tma, out_mma = views
        staging, ring = Buffers(out_tma, out_mma, residual_full), Ring(cfg.stages, full, empty)
        shared = _Shared(a_tma, a_mma, b_tma, b_mma, staging, ring, resident_ready)
        wg_idx, worker = lax.axis_index("wg"), lax.axis_index("sm")
        cta = lax.axis_index("cta") if cfg.cluster > 1 else 0

        @mgpu.when(wg_idx == cfg.mma_warpgroups)
        def _():
            self._produce(gmem, shared, worker, cta)

        @mgpu.when(wg_idx < cfg.mma_warpgroups)
        def _():
            self._consume(gmem, shared, worker, cta, wg_idx)

    def _produce(self, gmem: _Global, shared: _Shared, worker: Array, cta: Scalar) -> None:
        """Fill slots: for every tile, tap and channel step, in the order in which `_consume` counts them."""
        schedule, cfg, ring = self.schedule, self.cfg, shared.ring
        if cfg.resident:
            self._load_resident(gmem, shared)

        def per_tile(i: Array, slot: Array) -> Array:
            tile = schedule.tile(worker, i)
            spans, channels = schedule.tap_spans(tile), schedule.channel_span(tile)
            firsts = [schedule.first_pixel(tile.m_tile, cta, k) for k in range(self.tiling.cta_tiles)]

            def per_step(taps: tuple[Array, ...], c: Array, slot: Array) -> Array:
                ring.acquire(slot)
                for u in range(cfg.taps_per_step):
                    self._load(gmem, shared, slot, u, tile, firsts, spans, taps, c)
                return ring.next_slot(slot)

            def nested_loops(taps: tuple[Array, ...], slot: Array) -> Array:
                if len(taps) == len(self.dims):
                    return lax.fori_loop(channels.first, channels.last, lambda c, s: per_step(taps, c, s), slot)
                span = spans[len(taps)]
                if cfg.taps_per_step > 1 and len(taps) == len(self.dims) - 1:
                    span = Span(jnp.int32(0), schedule.tap_groups(span))
                return lax.fori_loop(span.first, span.last, lambda tap, s: nested_loops((*taps, tap), s), slot)

            return nested_loops((), slot)

        ring.drain(lax.fori_loop(0, schedule.tiles_of(worker), per_tile, jnp.int32(0)))

    def _load_resident(self, gmem: _Global, shared: _Shared) -> None:
        """Load all weights, once."""
        cfg, sizes = self.cfg, [len(d.order) for d in self.dims]

        def load(i: Array, _: None) -> None:
            (*taps, c), _rest = unravel(i, [*sizes, self.tiling.resident_blocks[1]])
            channels = mgpu.ds(c * cfg.tile_k, cfg.tile_k)
            mgpu.copy_gmem_to_smem(
                gmem.w.at[(*taps, 0, mgpu.ds(jnp.int32(0), cfg.tile_n), channels)],  # which may be more than there are
                shared.b_tma.at[ravel(taps, sizes), c],
                barrier=shared.resident_ready,
                oob_mode=mgpu.OOBFillMode.ZEROS,
            )

        lax.fori_loop(0, math.prod(self.tiling.resident_blocks), load, None)

    def _load(
        self,
        gmem: _Global,
        shared: _Shared,
        slot: Array,
        u: int,
        tile: Tile,
        firsts: list[list[Array]],
        spans: list[Span],
        taps: tuple[Array, ...],
        c: Array,
    ) -> None:
        """Load the u-th tap of a step: pixels of every consumer, and weights.

        With cfg.taps_per_step > 1, the last of `taps` counts steps of so many taps; a step's taps past the end must add zeros.
        """
        cfg, tiling = self.cfg, self.tiling
        in_range: Any = True
        if cfg.taps_per_step > 1:
            last = spans[-1].first + taps[-1] * cfg.taps_per_step + u
            taps, in_range = (*taps[:-1], last), last < spans[-1].last

        # A step past the last tap must add nothing. Zero weights alone would not do, since 0 * NaN is NaN. So both operands are
        # read out of bounds, where TMA fills in zeros.
        first_out_channel = tile.n_tile * cfg.tile_n
        if cfg.taps_per_step > 1:
            first_out_channel = jnp.where(in_range, first_out_channel, self.problem.out_channels)

        copy = functools.partial(
            mgpu.copy_gmem_to_smem, barrier=shared.ring.full.at[slot], oob_mode=mgpu.OOBFillMode.ZEROS
        )
        channels = mgpu.ds(c * cfg.tile_k, cfg.tile_k)
        for load in range(tiling.pixel_loads):
            moves = self._moves(tile, self._of_halo(taps, load))
            first = firsts[0 if cfg.halo else load]
            window = self.views.pixels.at(first, moves, tiling.load_pixels, tile.group, in_range)
            copy(gmem.x.at[(*window, channels)], shared.a_tma.at[slot, u, load])
        for r in range(0 if cfg.resident else tiling.halo_taps):
            copy(
                gmem.w.at[
                    (
                        *self._weights_at(tile, self._of_halo(taps, r)),
                        tile.group,
                        mgpu.ds(first_out_channel, cfg.tile_n),
                        channels,
                    )
                ],
                shared.b_tma.at[slot, u, r],
                collective_axes="cta" if cfg.cluster > 1 else None,
            )

    def _of_halo(self, taps: Sequence[Array], r: int) -> list[Array]:
        """The taps of a step, moved on by r in the dimension of the halo."""
        return [tap + r if i == self.tiling.halo_dim else tap for i, tap in enumerate(taps)]

    def _weights_at(self, tile: Tile, taps: list[Any]) -> list[Array]:
        """Positions of these taps of a phase among all taps."""
        return [select(d.first, p) + tap for d, p, tap in zip(self.dims, tile.phase, taps, strict=True)]

    def _moves(self, tile: Tile, taps: list[Any]) -> list[Array]:
        """Distances from outputs to what these taps read, by dimension."""
        dims = zip(self.dims, tile.phase, taps, strict=True)
        return [select(d.offset, p) + tap * d.tap_stride for d, p, tap in dims]

    def _consume(self, gmem: _Global, shared: _Shared, worker: Array, cta: Scalar, wg_idx: Array) -> None:
        """Multiply the slots of every tile, then store the tile."""
        schedule, cfg, ring = self.schedule, self.cfg, shared.ring
        ring.hand_over()

        def per_tile(i: Array, slot: Array) -> Array:
            tile = schedule.tile(worker, i)
            spans = schedule.tap_spans(tile)
            steps = schedule.steps(tile, spans)
            to = self._destination(gmem, tile, cta, wg_idx)
            store = TileStore(self.staging, shared.staging, to, i, wg_idx)

            def accumulate(acc: Any) -> tuple[Array, Array]:
                def per_step(step: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
                    slot, at = carry
                    ring.wait(slot)
                    weights = self._resident_at(tile, at) if cfg.resident else []
                    self._multiply(acc, shared, slot, weights, wg_idx)
                    mgpu.when(step == 0)(store.prefetch_residual)
                    # For all products but this step's: the slot before is free then.
                    mgpu.wgmma_wait(cfg.taps_per_step * self.tiling.halo_taps)
                    mgpu.when(step > 0)(lambda: ring.release(ring.previous_slot(slot)))
                    return ring.next_slot(slot), next_step(loops, at)

                loops = [*spans, schedule.channel_span(tile)] if cfg.resident else []
                end, _ = lax.fori_loop(0, steps, per_step, (slot, [span.first for span in loops]))
                mgpu.wgmma_wait(0)
                mgpu.when(steps > 0)(lambda: ring.release(ring.previous_slot(end)))
                mgpu.when(steps == 0)(store.prefetch_residual)
                return acc[...], end

            acc, slot = mgpu.run_scoped(accumulate, mgpu.ACC((cfg.tile_m, cfg.tile_n), jnp.float32))
            store.store(acc)
            return slot

        if cfg.resident:
            mgpu.barrier_wait(shared.resident_ready)
        lax.fori_loop(0, schedule.tiles_of(worker), per_tile, jnp.int32(0))
        mgpu.wait_smem_to_gmem(0)

    def _destination(self, gmem: _Global, tile: Tile, cta: Scalar, wg_idx: Array) -> Destination:
        """The place in global memory of a consumer's part of a tile."""
        problem, tiling = self.problem, self.tiling
        first = self.schedule.first_pixel(tile.m_tile, cta, wg_idx)
        sizes = (problem.batch, *(d.rows for d in problem.dims))
        past_end = tuple(n * extent for n, extent in zip(tiling.m_grid, tiling.cta_pixels, strict=True))
        images, *rows = box_at(first, self.cfg.tile_pixels, sizes, past_end, one_image=self.views.pixels.one_image)
        # The group is one of the output; the bias is fused if there is one part.
        group = tile.k_part * problem.groups + tile.group
        window = self.views.results.window([images, *rows], tile.phase, group)
        return Destination(gmem.bias, gmem.residual, gmem.outs, window, group, tile.n_tile)

    def _resident_at(self, tile: Tile, at: list[Array]) -> list[tuple[Array, Array]]:
        """Places of the resident weights of a step at these taps and channels, one for each tap of its halo."""
        *taps, c = at
        sizes = [len(d.order) for d in self.dims]
        return [(ravel(self._weights_at(tile, self._of_halo(taps, r)), sizes), c) for r in range(self.tiling.halo_taps)]

    def _multiply(self, acc: Any, shared: _Shared, slot: Array, weights_at: list[Any], wg_idx: Array) -> None:
        """acc[tile_m, tile_n] += a[tile_m, tile_k] @ b[tile_n, tile_k].T for every tap of the slot.

        weights_at: the places of each tap's weights if they are resident.
        """
        cfg, tiling = self.cfg, self.tiling
        for u, r in itertools.product(range(cfg.taps_per_step), range(tiling.halo_taps)):
            weights = shared.b_mma.at[weights_at[r] if cfg.resident else (slot, u, r)].T
            load, shift, row = wg_idx, jnp.int32(0), 1
            if cfg.halo:  # a consumer's pixels of tap r start this many rows further in its box
                box, further = self.dims[tiling.halo_dim].box_of_tap(r)
                load, shift = jnp.int32(box), wg_idx * cfg.tile_pixels[tiling.halo_dim + 1] + further
                row = math.prod(cfg.tile_pixels[tiling.halo_dim + 2 :])
            if not self.interpret:
                mgpu.wgmma(acc, shared.a_mma.at[slot, u, load, mgpu.ds(shift * row, cfg.tile_m)], weights)
                continue
            halo_axis = tiling.halo_dim + 1 - self.views.pixels.one_image
            for pixel, index in lines(
                self.views.pixels.box(cfg.tile_pixels)
            ):  # the interpreter has no second view of the pixels
                at = tuple(j + shift if axis == halo_axis else j for axis, j in enumerate(index))
                mgpu.wgmma(acc.at[mgpu.ds(pixel, cfg.tile_pixels[-1])], shared.a_tma.at[(slot, u, load, *at)], weights)

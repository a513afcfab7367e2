"""The dense convolution kernel for Hopper: a persistent, warp-specialised implicit GEMM over phases and taps.

For a `taps.Dim` per spatial dimension, channels last,

    z[n, q * out_stride + p, g, k] = bias[g, k] + residual[n, q * out_stride + p, g, k] + sum_{taps i of phase p, channels c}
                                     x[n, q * in_stride + offset[p] + i * step, g, c] * w[first[p] + i, g, k, c]

One producer warpgroup walks tiles, taps and channels and loads boxes of pixels and rows of weights by TMA into a ring
of slots; what lies outside reads as zero, so padding costs nothing. The consumer warpgroups multiply every slot: each
its own box of pixels with the weights that all share. TMA stores clip what lies outside the output. Weights of few
channels are loaded once, and stay (Config.resident).

If the output has too few tiles for the chip, several blocks share the channels of one (Config.split): the kernel then
stores bare float32 sums, side by side like groups, and XLA adds them, always in the same order, in one pass. It does so
too where taps are output channels (Config.fold); see remapping.py.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from . import mosaic as mgpu
from .config import H100_SMS, Config, Problem, illegal
from .epilogue import Epilogue
from .remapping import finished, pad, prepared, reordered
from .schedule import Scalar, Schedule, Span, Tile, floor_div, next_step, pick, ravel, unravel
from .taps import Dim
from .work import useful_macs


def dense(
    x: Array,
    w: Array,
    bias: Array | None,
    residual: Array | None,
    dims: tuple[Dim, ...],
    cfg: Config,
    *,
    epilogue: Epilogue,
    out_dtype: Any,
    name: str,
    num_sms: int = H100_SMS,
    interpret: bool = False,
) -> list[Array]:
    """x: [N, *in, G, C], w: [*kernel, G, K, C], bias: [G, K] float32 or None, residual: [N, *out, G, K] out_dtype or None
    -> [N, *out, G, K] per output.
    """
    out_dtype = jnp.dtype(out_dtype)
    raw = Problem(
        N=x.shape[0],
        G=x.shape[-2],
        C=x.shape[-1],
        K=w.shape[-2],
        dims=dims,
        itemsize=x.dtype.itemsize,
        out_itemsize=out_dtype.itemsize,
        outputs=len(epilogue.outputs),
        residual=residual is not None,
    )
    if why := illegal(raw, cfg):
        raise ValueError(why)
    x, w = prepared(x, w, dims, cfg)
    problem = raw.under(cfg)
    schedule = Schedule(problem, cfg, num_sms)
    fused, stored_dtype = (Epilogue(), jnp.dtype(jnp.float32)) if cfg.finished_by_xla else (epilogue, out_dtype)
    kernel = _Kernel(schedule, fused, x.dtype, stored_dtype, interpret)
    operands = {"x": kernel.view_of_pixels(x), "w": kernel.view_of_weights(w)}
    if bias is not None and not cfg.finished_by_xla:
        operands["bias"] = pad(bias, [(0, 0), (0, schedule.tiling.k_tiles * cfg.bn - problem.K)])
    if residual is not None and not cfg.finished_by_xla:
        operands["residual"] = kernel.view_of_residual(residual)

    out_type = [jax.ShapeDtypeStruct(kernel.out_shape, stored_dtype) for _ in fused.outputs]
    size = lambda a: math.prod(a.shape) * a.dtype.itemsize
    cost = mgpu.CostEstimate(
        flops=2 * useful_macs(raw), transcendentals=0, bytes_accessed=sum(map(size, [*operands.values(), *out_type]))
    )
    cluster: dict[str, Any] = {"cluster": (cfg.cluster,), "cluster_names": ("cta",)} if cfg.cluster > 1 else {}
    outs = mgpu.kernel(
        functools.partial(kernel.body, tuple(operands)),
        out_type=out_type,
        grid=(schedule.workers,),
        grid_names=("sm",),
        **cluster,
        num_threads=cfg.consumers + 1,
        thread_name="wg",
        scratch_types=kernel.scratch_types(),
        kernel_name=name,
        cost=cost,
        interpret=interpret,
    )(*operands.values())
    outs = [kernel.result_of(out) for out in outs]
    return finished(outs[0], dims, cfg, bias, residual, epilogue, out_dtype) if cfg.finished_by_xla else outs


class _Global(NamedTuple):
    """The operands and results in global memory, as the views below make them."""

    x: Any
    w: Any
    bias: Any
    residual: Any
    outs: tuple[Any, ...]


class _Shared(NamedTuple):
    """What the warpgroups of a block share: every buffer under its TMA and its wgmma view, and the ring's barriers."""

    a_tma: Any  # [stages, taps, loads, *load_box, bk]
    a_mma: Any  # [stages, taps, loads, prod(load_box), bk]
    b_tma: Any  # [stages, taps, halo_taps, bn, bk], or [all taps, c_steps, bn, bk] where weights are resident
    b_mma: Any
    out_tma: Any  # [consumers, out_bufs, *box, columns]
    out_mma: Any  # [consumers, out_bufs, prod(box), columns]
    full: Any
    empty: Any
    residual_full: Any  # [consumers * out_bufs], of each staging buffer
    kept: Any  # resident weights are there


class _Kernel:
    """The kernel's body and the views of its operands; static numbers only, everything traced is an argument."""

    def __init__(self, schedule: Schedule, epilogue: Epilogue, dtype: Any, out_dtype: Any, interpret: bool):
        self.schedule, self.epilogue, self.interpret = schedule, epilogue, interpret
        self.problem, self.cfg, self.tiling = schedule.problem, schedule.cfg, schedule.tiling
        self.dtype, self.out_dtype = dtype, out_dtype
        self.dims = self.problem.dims
        # TMA has five dimensions: three spatial ones leave none to spare for a box of one image, indexed by an integer.
        self.one_image = len(self.dims) == 3 and self.cfg.box[0] == 1
        # How far before the array a box may start, in strides. On hardware it reads zeros there; the interpreter fills past
        # the end only, so there the array itself is padded.
        self.reach = [max(0, -min(o // d.in_stride for o in d.offset)) for d in self.dims]
        self.lead = self.reach if interpret else [0] * len(self.dims)

    # Views of the operands and of the results, in global memory.

    def view_of_pixels(self, x: Array) -> Array:
        """[N, *in, G, C] -> [N, *(in / stride, stride), G, C]: a strided dimension becomes quotient and remainder."""
        space = [(lead * d.in_stride, -d.in_size % d.in_stride) for lead, d in zip(self.lead, self.dims, strict=True)]
        x = pad(x, [(0, 0), *space, (0, 0), (0, self._unaligned_channels)])
        return x.reshape(x.shape[0], *_split(x.shape[1:-2], [d.in_stride for d in self.dims]), *x.shape[-2:])

    def view_of_weights(self, w: Array) -> Array:
        """[*kernel, G, K, C] with the taps of a phase side by side, in the order of their offsets."""
        for i, d in enumerate(self.dims):
            w = reordered(w, i, d.order)
        return pad(w, [(0, 0)] * (w.ndim - 1) + [(0, self._unaligned_channels)])

    @property
    def _unaligned_channels(self) -> int:
        return -self.problem.C % (16 // self.dtype.itemsize)  # TMA strides are multiples of 16 bytes

    @property
    def out_shape(self) -> tuple[int, ...]:
        """[N, *(rows, out_stride), split G, K], K in whole 16 bytes."""
        K = self.problem.K + -self.problem.K % (16 // self.out_dtype.itemsize)
        sizes = [d.rows * d.out_stride for d in self.dims]
        return (self.problem.N, *_split(sizes, [d.out_stride for d in self.dims]), self.cfg.split * self.problem.G, K)

    def view_of_residual(self, r: Array) -> Array:
        """[N, *out, G, K] -> out_shape."""
        space = [(0, d.rows * d.out_stride - d.out_size) for d in self.dims]
        return pad(r, [(0, 0), *space, (0, 0), (0, self.out_shape[-1] - self.problem.K)]).reshape(self.out_shape)

    def result_of(self, out: Array) -> Array:
        """[N, *out, split G, K]."""
        out = out.reshape(self.problem.N, *(d.rows * d.out_stride for d in self.dims), *out.shape[-2:])
        return out[(slice(None), *(slice(d.out_size) for d in self.dims), slice(None), slice(self.problem.K))]

    def scratch_types(self) -> list[Any]:
        cfg, tiling = self.cfg, self.tiling
        views = functools.partial(mgpu.two_views, interpret=self.interpret)
        copies = cfg.taps * (tiling.loads + (0 if cfg.resident else tiling.halo_taps))
        weights = self._kept if cfg.resident else (cfg.stages, cfg.taps, tiling.halo_taps)
        empty: Any = mgpu.Barrier(num_arrivals=cfg.consumers, num_barriers=cfg.stages)
        if cfg.cluster > 1:  # a slot is free when both blocks have read the weights that they share
            empty = mgpu.ClusterBarrier(collective_axes=("cta",), num_arrivals=cfg.consumers, num_barriers=cfg.stages)
        return [
            views((cfg.stages, cfg.taps, tiling.loads), self._box(tiling.load_box), cfg.bk, self.dtype),
            views(weights, (cfg.bn,), cfg.bk, self.dtype),
            views((cfg.consumers, cfg.out_bufs), self._box(cfg.box), cfg.columns, self.out_dtype),
            mgpu.Barrier(num_arrivals=copies, num_barriers=cfg.stages),
            empty,
            *([mgpu.Barrier(num_barriers=cfg.consumers * cfg.out_bufs)] if self.problem.residual else []),
            *([mgpu.Barrier(num_arrivals=math.prod(self._kept))] if cfg.resident else []),
        ]

    @property
    def _kept(self) -> tuple[int, int]:
        """(all taps, c_steps): the blocks of resident weights."""
        return math.prod(len(d.order) for d in self.dims), self.tiling.c_steps

    def _box(self, box: tuple[int, ...]) -> tuple[int, ...]:
        return box[1:] if self.one_image else box

    def _box_at(
        self,
        first: list[Array],
        extents: tuple[int, ...],
        sizes: tuple[int, ...],
        beyond: tuple[int, ...],
        live: Any = True,
    ) -> list[Any]:
        """Indices of a box at (image, *pixel) in an array of these sizes; all of it outside if it is not live, or no image's.

        Mosaic drops an axis, index and all, of which array and box have one: what is outside there is moved outside along
        the longest axis of the box, by `beyond`. And it may fold integer indices into one: an image that is one stays inside.
        """
        live &= first[0] < sizes[0]
        for at, extent, size in zip(first, extents, sizes, strict=True):
            if extent == size == 1:
                live &= at == 0
        longest = max(range(len(extents)), key=extents.__getitem__)
        starts = [at + jnp.where(live, 0, beyond[i]) if i == longest else at for i, at in enumerate(first)]
        image, *pixel = [mgpu.ds(at, extent) for at, extent in zip(starts, extents, strict=True)]
        return [jnp.where(live, starts[0], 0) if self.one_image else image, *pixel]

    # The kernel.

    def body(self, names: tuple[str, ...], *refs: Any) -> None:
        """names: of the operands."""
        cfg, n_in, n_out = self.cfg, len(names), len(self.epilogue.outputs)
        operands = dict.fromkeys(("bias", "residual")) | dict(zip(names, refs[:n_in], strict=True))
        gmem = _Global(**operands, outs=refs[n_in : n_in + n_out])
        a_smem, b_smem, out_smem, full, empty, *others = refs[n_in + n_out :]
        views: list[Any] = []
        for smem in (a_smem, b_smem, out_smem):
            views.extend((smem, smem) if self.interpret else tuple(smem))
        residual_full = others.pop(0) if self.problem.residual else None
        kept = others.pop(0) if cfg.resident else None
        shared = _Shared._make([*views, full, empty, residual_full, kept])
        wg_idx, worker = lax.axis_index("wg"), lax.axis_index("sm")
        cta = lax.axis_index("cta") if cfg.cluster > 1 else 0

        @mgpu.when(wg_idx == cfg.consumers)
        def _():
            self._produce(gmem, shared, worker, cta)

        @mgpu.when(wg_idx < cfg.consumers)
        def _():
            self._consume(gmem, shared, worker, cta, wg_idx)

    def _produce(self, gmem: _Global, shared: _Shared, worker: Array, cta: Scalar) -> None:
        """Fill slots: for every tile, tap and channel step, in the order in which `_consume` counts them."""
        schedule, cfg = self.schedule, self.cfg
        if cfg.resident:
            self._keep(gmem, shared)

        def per_tile(i: Array, slot: Array) -> Array:
            tile = schedule.tile(worker, i)
            spans, channels = schedule.tap_spans(tile), schedule.channel_span(tile)
            firsts = [schedule.first_pixel(tile.unit, cta, k) for k in range(self.tiling.tiles)]

            def per_step(taps: tuple[Array, ...], c: Array, slot: Array) -> Array:
                mgpu.barrier_wait(shared.empty.at[slot])
                for u in range(cfg.taps):
                    self._load(gmem, shared, slot, u, tile, firsts, spans, taps, c)
                return schedule.following(slot)

            def nest(taps: tuple[Array, ...], slot: Array) -> Array:
                if len(taps) == len(self.dims):
                    return lax.fori_loop(channels.first, channels.last, lambda c, s: per_step(taps, c, s), slot)
                span = spans[len(taps)]
                if cfg.taps > 1 and len(taps) == len(self.dims) - 1:
                    span = Span(jnp.int32(0), schedule.tap_groups(span))
                return lax.fori_loop(span.first, span.last, lambda tap, s: nest((*taps, tap), s), slot)

            return nest((), slot)

        slot = lax.fori_loop(0, schedule.tiles_of(worker), per_tile, jnp.int32(0))
        for _ in range(cfg.stages):  # see every slot handed back before leaving
            mgpu.barrier_wait(shared.empty.at[slot])
            slot = schedule.following(slot)

    def _keep(self, gmem: _Global, shared: _Shared) -> None:
        """Load all weights, once."""
        cfg, sizes = self.cfg, [len(d.order) for d in self.dims]

        def load(i: Array, _: None) -> None:
            (*taps, c), _rest = unravel(i, [*sizes, self._kept[1]])
            channels = mgpu.ds(c * cfg.bk, cfg.bk)
            mgpu.copy_gmem_to_smem(
                gmem.w.at[(*taps, 0, mgpu.ds(jnp.int32(0), cfg.bn), channels)],  # which may be more than there are
                shared.b_tma.at[ravel(taps, sizes), c],
                barrier=shared.kept,
                oob_mode=mgpu.OOBFillMode.ZEROS,
            )

        lax.fori_loop(0, math.prod(self._kept), load, None)

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

        With cfg.taps > 1, the last of `taps` counts steps of so many taps; a step's taps past the end must add zeros.
        """
        cfg, tiling = self.cfg, self.tiling
        live: Any = True
        if cfg.taps > 1:
            last = spans[-1].first + taps[-1] * cfg.taps + u
            taps, live = (*taps[:-1], last), last < spans[-1].last

        rows = tile.k_tile * cfg.bn
        if cfg.taps > 1:  # out of bounds reads zeros, in the pixels below, too, for 0 * NaN is not 0
            rows = jnp.where(live, rows, self.problem.K)

        copy = functools.partial(mgpu.copy_gmem_to_smem, barrier=shared.full.at[slot], oob_mode=mgpu.OOBFillMode.ZEROS)
        channels = mgpu.ds(c * cfg.bk, cfg.bk)
        sizes = (self.problem.N, *(d.in_rows + lead for d, lead in zip(self.dims, self.lead, strict=True)))
        beyond = tuple(size + reach for size, reach in zip(sizes, (0, *self.reach), strict=True))
        for load in range(tiling.loads):
            image, *first = firsts[0 if cfg.halo else load]
            moves = self._moves(tile, self._of_halo(taps, load))
            at_pixel = [image, *(f + quotient for f, (quotient, _) in zip(first, moves, strict=True))]
            images, *pixels = self._box_at(at_pixel, tiling.load_box, sizes, beyond, live)
            window = _interleave(pixels, [remainder for _, remainder in moves])
            copy(gmem.x.at[(images, *window, tile.group, channels)], shared.a_tma.at[slot, u, load])
        for r in range(0 if cfg.resident else tiling.halo_taps):
            copy(
                gmem.w.at[
                    (*self._weights_at(tile, self._of_halo(taps, r)), tile.group, mgpu.ds(rows, cfg.bn), channels)
                ],
                shared.b_tma.at[slot, u, r],
                collective_axes="cta" if cfg.cluster > 1 else None,
            )

    def _of_halo(self, taps: Sequence[Array], r: int) -> list[Array]:
        """The r-th of the taps that a step serves."""
        return [tap + r if i == self.tiling.halo_dim else tap for i, tap in enumerate(taps)]

    def _weights_at(self, tile: Tile, taps: list[Any]) -> list[Array]:
        """Where these taps of a phase are among all."""
        return [pick(d.first, p) + tap for d, p, tap in zip(self.dims, tile.phase, taps, strict=True)]

    def _moves(self, tile: Tile, taps: list[Any]) -> list[tuple[Array, tuple[Array, ...]]]:
        """From outputs to what these taps read, in each dimension: whole strides, and the remainder where there is a stride."""
        moves: list[tuple[Array, tuple[Array, ...]]] = []
        for d, p, tap, lead in zip(self.dims, tile.phase, taps, self.lead, strict=True):
            move = pick(d.offset, p) + tap * d.step
            quotient = floor_div(move, d.in_stride, min(d.offset))
            moves.append((quotient + lead, () if d.in_stride == 1 else (move - quotient * d.in_stride,)))
        return moves

    def _consume(self, gmem: _Global, shared: _Shared, worker: Array, cta: Scalar, wg_idx: Array) -> None:
        """Multiply the slots of every tile, then store the tile."""
        schedule, cfg = self.schedule, self.cfg
        for slot in range(cfg.stages):
            mgpu.barrier_arrive(shared.empty.at[slot])
        release = lambda slot: mgpu.barrier_arrive(shared.empty.at[schedule.preceding(slot)])

        def per_tile(i: Array, slot: Array) -> Array:
            tile = schedule.tile(worker, i)
            spans = schedule.tap_spans(tile)
            steps = schedule.steps(tile, spans)
            epilogue = _TileEpilogue(self, gmem, shared, tile, i, cta, wg_idx)

            def accumulate(acc: Any) -> tuple[Array, Array]:
                def per_step(step: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
                    slot, at = carry
                    mgpu.barrier_wait(shared.full.at[slot])
                    weights = self._resident_at(tile, at) if cfg.resident else []
                    self._multiply(acc, shared, slot, weights, wg_idx)
                    mgpu.when(step == 0)(epilogue.prefetch_residual)
                    mgpu.wgmma_wait(cfg.taps * self.tiling.halo_taps)  # all but this step's: the slot before is free
                    mgpu.when(step > 0)(lambda: release(slot))
                    return schedule.following(slot), next_step(walk, at)

                walk = [*spans, schedule.channel_span(tile)] if cfg.resident else []
                end, _ = lax.fori_loop(0, steps, per_step, (slot, [span.first for span in walk]))
                mgpu.wgmma_wait(0)
                mgpu.when(steps > 0)(lambda: release(end))
                mgpu.when(steps == 0)(epilogue.prefetch_residual)
                return acc[...], end

            acc, slot = mgpu.run_scoped(accumulate, mgpu.ACC((cfg.pixels, cfg.bn), jnp.float32))
            epilogue.store(acc)
            return slot

        if cfg.resident:
            mgpu.barrier_wait(shared.kept)
        lax.fori_loop(0, schedule.tiles_of(worker), per_tile, jnp.int32(0))
        mgpu.wait_smem_to_gmem(0)

    def _resident_at(self, tile: Tile, at: list[Array]) -> list[tuple[Array, Array]]:
        """Where the weights of a step at these taps and channels lie, of each tap of its halo."""
        *taps, c = at
        sizes = [len(d.order) for d in self.dims]
        return [(ravel(self._weights_at(tile, self._of_halo(taps, r)), sizes), c) for r in range(self.tiling.halo_taps)]

    def _multiply(self, acc: Any, shared: _Shared, slot: Array, weights_at: list[Any], wg_idx: Array) -> None:
        """acc[pixels, bn] += a[pixels, bk] @ b[bn, bk].T for every tap of the slot.

        weights_at: where those of each tap lie if they are resident.
        """
        cfg, tiling = self.cfg, self.tiling
        for u, r in itertools.product(range(cfg.taps), range(tiling.halo_taps)):
            weights = shared.b_mma.at[weights_at[r] if cfg.resident else (slot, u, r)].T
            load, shift, row = wg_idx, jnp.int32(0), 1
            if cfg.halo:  # a consumer's pixels of tap r start this many rows further in its box
                sheet, further = self.dims[tiling.halo_dim].in_sheet(r)
                load, shift = jnp.int32(sheet), wg_idx * cfg.box[tiling.halo_dim + 1] + further
                row = math.prod(cfg.box[tiling.halo_dim + 2 :])
            if not self.interpret:
                mgpu.wgmma(acc, shared.a_mma.at[slot, u, load, mgpu.ds(shift * row, cfg.pixels)], weights)
                continue
            halo_axis = tiling.halo_dim + 1 - self.one_image
            for pixel, index in _lines(self._box(cfg.box)):  # the interpreter has no second view of the pixels
                at = tuple(j + shift if axis == halo_axis else j for axis, j in enumerate(index))
                mgpu.wgmma(acc.at[mgpu.ds(pixel, cfg.box[-1])], shared.a_tma.at[(slot, u, load, *at)], weights)


class _TileEpilogue:
    """Adds bias and residual to a tile, activates and stores it: in chunks of columns, so that few registers live.

    The residual is prefetched into the staging buffers, a chunk into the one that its first output will take: the first
    chunk while the tile is multiplied, and others as far ahead as buffers are to spare.
    """

    def __init__(
        self, kernel: _Kernel, gmem: _Global, shared: _Shared, tile: Tile, i: Array, cta: Scalar, wg_idx: Array
    ):
        """i: the tile is its consumer's i-th."""
        self.kernel, self.gmem, self.shared, self.tile, self.i, self.wg_idx = kernel, gmem, shared, tile, i, wg_idx
        cfg, problem, tiling = kernel.cfg, kernel.problem, kernel.tiling
        self.cfg, self.lines = cfg, _lines(kernel._box(cfg.box))
        self.chunks, self.outputs = cfg.bn // cfg.columns, len(kernel.epilogue.outputs)
        self.ahead = min((cfg.out_bufs - 1) // self.outputs, self.chunks)
        first = kernel.schedule.first_pixel(tile.unit, cta, wg_idx)
        sizes = (problem.N, *(d.rows for d in problem.dims))
        beyond = tuple(n * extent for n, extent in zip(tiling.grid, tiling.cta_box, strict=True))
        images, *rows = kernel._box_at(first, cfg.box, sizes, beyond)
        phase = [(p,) if d.out_stride > 1 else () for d, p in zip(problem.dims, tile.phase, strict=True)]
        # The group is one of the output; the bias is fused if there is one part.
        self.window = (images, *_interleave(rows, phase), tile.part * problem.G + tile.group)

    def prefetch_residual(self) -> None:
        """Of the first chunks, once a tile."""
        if self.gmem.residual is not None:
            for chunk in range(max(1, self.ahead)):
                self._load_residual(chunk, stored=0)

    def store(self, acc: Array) -> None:
        columns, stores = self.cfg.columns, itertools.count()
        for chunk in range(self.chunks):
            at = self._at(chunk)
            z = acc[:, chunk * columns : (chunk + 1) * columns]
            if self.gmem.bias is not None:
                row = mgpu.load(self.gmem.bias.at[at[-2:]], layout=mgpu.Layout.WGMMA.reduce(0), optimized=False)
                z = z + lax.broadcast_in_dim(row, z.shape, (1,))
            if self.gmem.residual is not None:
                z = z + self._residual(chunk).astype(z.dtype)
            for output, value in self.kernel.epilogue(z, self.kernel.out_dtype):
                store = next(stores)
                if self.gmem.residual is None or store % self.outputs:  # else the residual's buffer, which is free
                    self._wait_for_buffer(store, stored=store)
                staged = self._buffer(store)
                self._stage(staged, value)
                mgpu.commit_smem()
                mgpu.copy_smem_to_gmem(self.shared.out_tma.at[staged], self.gmem.outs[output].at[at])

    def _residual(self, chunk: int) -> Array:
        """Of a chunk; meanwhile that of a later one is loaded."""
        if self.ahead == 0 and chunk > 0:
            self._load_residual(chunk, stored=chunk * self.outputs)
        staged = self._buffer(chunk * self.outputs)
        mgpu.barrier_wait(self._residual_barrier(staged))
        residual = self._staged(staged)
        if 0 < self.ahead < self.chunks - chunk:
            self._load_residual(chunk + self.ahead, stored=chunk * self.outputs)
        return residual

    def _at(self, chunk: int) -> tuple[Any, ...]:
        """Where a chunk lies in an output, or in the residual."""
        first = self.tile.k_tile * self.cfg.bn + chunk * self.cfg.columns
        return (*self.window, mgpu.ds(first, self.cfg.columns))

    def _load_residual(self, chunk: int, stored: int) -> None:
        self._wait_for_buffer(chunk * self.outputs, stored)
        staged = self._buffer(chunk * self.outputs)
        mgpu.copy_gmem_to_smem(
            self.gmem.residual.at[self._at(chunk)],
            self.shared.out_tma.at[staged],
            barrier=self._residual_barrier(staged),
            oob_mode=mgpu.OOBFillMode.ZEROS,
        )

    def _residual_barrier(self, staged: tuple[Any, Any]) -> Any:
        wg_idx, buffer = staged
        return self.shared.residual_full.at[wg_idx * self.cfg.out_bufs + buffer]

    def _buffer(self, store: int) -> tuple[Array, Any]:
        """The staging buffer of a store of this tile: all stores of all tiles take them in turn."""
        bufs, per_tile = self.cfg.out_bufs, self.chunks * self.outputs
        if per_tile % bufs == 0:  # every tile starts with the first buffer
            return self.wg_idx, store % bufs
        return self.wg_idx, lax.rem(self.i * per_tile + store % bufs, jnp.int32(bufs))

    def _wait_for_buffer(self, store: int, stored: int) -> None:
        """Until that buffer is free; so many stores of this tile have begun."""
        mgpu.wait_smem_to_gmem(self.cfg.out_bufs - 1 - (store - stored), wait_read_only=True)

    def _staged(self, at: tuple[Any, Any]) -> Array:
        """What lies in a staging buffer."""
        if self.kernel.interpret:
            return jnp.concatenate([self.shared.out_tma[(*at, *index)] for _, index in self.lines])
        return mgpu.load(self.shared.out_mma.at[at], layout=mgpu.Layout.WGMMA)

    def _stage(self, at: tuple[Any, Any], value: Array) -> None:
        if self.kernel.interpret:
            for pixel, index in self.lines:
                self.shared.out_tma[(*at, *index)] = value[pixel : pixel + self.cfg.box[-1]]
        else:
            self.shared.out_mma[at] = value


def _interleave(rows: list[Any], remainders: list[tuple[Any, ...]]) -> list[Any]:
    """The indices of dimensions of which some are split into quotient and remainder."""
    return [index for row, remainder in zip(rows, remainders, strict=True) for index in (row, *remainder)]


def _split(sizes: Any, strides: list[int]) -> tuple[int, ...]:
    """(n,) -> (n / stride, stride) for every strided dimension."""
    return sum(((n // s, s) if s > 1 else (n,) for n, s in zip(sizes, strides, strict=True)), ())


def _lines(box: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """The first flat pixel, and the index, of every line of pixels in a box."""
    return [(i * box[-1], index) for i, index in enumerate(itertools.product(*map(range, box[:-1])))]

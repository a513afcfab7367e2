"""The weight-gradient kernel for Hopper: a persistent, warp-specialised dy^T x over pixels, for several taps at once.

For a `geometry.TapAxis` of one phase per spatial dimension, channels last, and per example,

    dw[tap, g, o, c] = sum_{images n, rows q} dy[n, q, g, o] * x[n, q * in_stride + offset + tap * tap_stride, g, c]

A tile is 64, 128 or 192 output channels, some taps, and some input channels. All its sums stay in registers while one producer
warpgroup walks boxes of pixels: it loads dy once for all taps, and x once for each, or once for all taps along a dimension (a
halo). The consumer warpgroups multiply, with pixels as the summed dimension, which lies outermost in shared memory: wgmma reads
16-bit operands so, or dy comes through registers. What lies outside of an array reads as zero.

The sums are long and the result small. So the pixels are divided among thread blocks until all SMs are busy
(Config.split_k); their float32 sums lie side by side, and XLA adds them, always in the same order.

A transposed convolution has several phases of outputs, of which dy would be read with strides, for few taps each. Its transpose
is a convolution with the same gradient, so there x and dy exchange roles (Config.transposed).

One thing to know: a box that ends beyond dy pairs zeros with numbers of x. If such a number is infinite or NaN, so is the
gradient of taps that never meet it, where the definition has a finite one.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from .. import mosaic as mgpu
from ..examples import examples_as_images
from ..gpu import Gpu
from ..mma import wgmma_from_registers
from ..ring import Ring
from ..scalars import Scalar
from ..views import lines, of_several
from .legal import illegal
from .operands import Views, pieces, space_to_depth, with_row_outputs
from .plan import Config, M, Problem, tiling
from .schedule import Schedule
from .work import useful_macs


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the kernel of a product that `served.reasons` has nothing against. Arrays are channels first.

    x (N, C, *in), ct (N, O, *out) -> [(O, C / groups, *kernel)], and (O,) if product.outputs has "db". With product.models,
    every array has that axis first.
    """
    raw = Problem.of(product)
    if why := illegal(raw, cfg, gpu):
        raise ValueError(why)
    if product.models is None:
        operands = tuple(a[None] for a in operands)
    x, dy = (pieces(examples_as_images(a.astype(product.compute_dtype), product.spec.groups)) for a in operands)
    if cfg.transposed:
        x, dy = dy, x
    if cfg.space_to_depth:
        x = space_to_depth(x, raw.oriented(cfg).axes)
    if cfg.row_outputs > 1:
        dy = with_row_outputs(dy, cfg.row_outputs)
    schedule = Schedule(tiling(raw, cfg), gpu.num_sms)
    kernel = _Kernel(schedule, x.dtype, interpret)
    given = kernel.views.pixels.view(x), kernel.views.dy(dy)
    stored = jnp.float32 if cfg.finished_by_xla else product.out_dtype
    out_type = [jax.ShapeDtypeStruct(schedule.tiling.out_shape, stored)]
    if raw.bias:
        out_type.append(jax.ShapeDtypeStruct(schedule.tiling.bias_shape, jnp.float32))
    size = lambda a: math.prod(a.shape) * a.dtype.itemsize
    cost = mgpu.CostEstimate(
        flops=2 * useful_macs(raw) * raw.terms,
        transcendentals=0,
        bytes_accessed=sum(map(size, (*given, *out_type))),
    )
    cluster: dict[str, Any] = {"cluster": (cfg.cluster,), "cluster_names": ("cta",)} if cfg.cluster > 1 else {}
    dw, *db = mgpu.kernel(
        kernel.body,
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
    )(*given)
    return [kernel.views.weight_gradient(dw, product), *(kernel.views.bias_gradient(sums, product) for sums in db)]


class _Shared(NamedTuple):
    """The shared memory of a block: both operands as TMA and as wgmma see them, and the barriers."""

    dy_tma: Any  # [stages, m_warpgroups, *step_pixels, M]
    dy_mma: Any  # [stages, m_warpgroups, pixels, M]
    x_tma: Any  # [stages, x_loads, *load_pixels, tile_n]
    x_mma: Any  # [stages, x_loads, prod(load_pixels), tile_n]
    ring: Ring


class _Product(NamedTuple):
    """A product of a consumer: of which load of x, and for which tap of its halo."""

    load: Scalar
    halo_tap: int


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """The kernel's body. Its fields are static numbers; everything traced is an argument of a method."""

    schedule: Schedule
    dtype: Any
    interpret: bool

    @property
    def cfg(self) -> Config:
        return self.schedule.cfg

    @functools.cached_property
    def views(self) -> Views:
        return Views(self.schedule.tiling, self.interpret)

    def scratch_types(self) -> list[Any]:
        cfg, tiling, box = self.cfg, self.schedule.tiling, self.views.pixels.box
        views = functools.partial(mgpu.two_views, dtype=self.dtype, interpret=self.interpret)
        return [
            views((cfg.stages, cfg.m_warpgroups), box(cfg.step_pixels), M),
            views((cfg.stages, cfg.x_loads), box(tiling.load_pixels), cfg.tile_n),
            *Ring.barriers(cfg.stages, cfg.m_warpgroups + cfg.x_loads, cfg.mma_warpgroups, cfg.cluster),
        ]

    def body(self, x: Any, dy: Any, dw: Any, *refs: Any) -> None:
        """Run one warpgroup, as the producer or as a consumer. refs: db if it is wanted, then shared memory and barriers."""
        *db, dy_smem, x_smem, full, empty = refs
        (dy_tma, dy_mma), (x_tma, x_mma) = (
            (smem, smem) if self.interpret else tuple(smem) for smem in (dy_smem, x_smem)
        )
        shared = _Shared(dy_tma, dy_mma, x_tma, x_mma, Ring(self.cfg.stages, full, empty))
        wg_idx, worker = lax.axis_index("wg"), lax.axis_index("sm")
        cta = lax.axis_index("cta") if self.cfg.cluster > 1 else jnp.int32(0)

        @mgpu.when(wg_idx == self.cfg.mma_warpgroups)
        def _():
            self._produce(x, dy, shared, worker, cta)

        @mgpu.when(wg_idx < self.cfg.mma_warpgroups)
        def _():
            self._consume(dw, db, shared, worker, cta, wg_idx)

    def _produce(self, x: Any, dy: Any, shared: _Shared, worker: Array, cta: Array) -> None:
        """Fill slots: for every tile, the boxes of pixels of its part."""
        schedule, cfg, ring = self.schedule, self.cfg, shared.ring

        def per_tile(i: Array, slot: Array) -> Array:
            tile = schedule.tile(worker, i, cta)
            reduction = schedule.reduction(tile)
            dims = schedule.problem.dims
            moves = [
                [d.offset[0] + tap * d.tap_stride for d, tap in zip(dims, schedule.taps(tile, u), strict=True)]
                for u in range(cfg.taps_per_tile)
            ]

            def per_step(step: Array, slot: Array) -> Array:
                x_image, dy_image, rows = schedule.pixels(tile, reduction, step)
                ring.acquire(slot)
                copy = functools.partial(
                    mgpu.copy_gmem_to_smem, barrier=shared.ring.full.at[slot], oob_mode=mgpu.OOBFillMode.ZEROS
                )
                images: Any = dy_image if self.views.pixels.one_image else mgpu.ds(dy_image, cfg.step_pixels[0])
                group = of_several(schedule.problem.groups, tile.group)
                box = (images, *(mgpu.ds(row, e) for row, e in zip(rows, cfg.step_pixels[1:], strict=True)), *group)
                for m in range(cfg.m_warpgroups):
                    channels = mgpu.ds((tile.m_tile * cfg.m_warpgroups + m) * M, M)
                    copy(
                        dy.at[(*box, channels)],
                        shared.dy_tma.at[slot, m],
                        collective_axes="cta" if cfg.multicast == "dy" else None,
                    )
                for u, c in itertools.product(range(cfg.taps_per_tile), range(cfg.channel_loads)):
                    extents = schedule.tiling.load_pixels
                    window = self.views.pixels.at([x_image, *rows], moves[u], extents, tile.group)
                    channels = mgpu.ds((tile.n_tile * cfg.channel_loads + c) * cfg.tile_n, cfg.tile_n)
                    copy(
                        x.at[(*window, channels)],
                        shared.x_tma.at[slot, u * cfg.channel_loads + c],
                        collective_axes="cta" if cfg.multicast == "x" else None,
                    )
                return ring.next_slot(slot)

            return lax.fori_loop(reduction.steps.first, reduction.steps.last, per_step, slot)

        ring.drain(lax.fori_loop(0, schedule.tiles_of(worker), per_tile, jnp.int32(0)))

    def _consume(self, dw: Any, db: list[Any], shared: _Shared, worker: Array, cta: Array, wg_idx: Array) -> None:
        """Multiply the slots of every tile, then store the tile."""
        schedule, cfg, tiling, ring = self.schedule, self.cfg, self.schedule.tiling, shared.ring
        m, n = lax.rem(wg_idx, jnp.int32(cfg.m_warpgroups)), lax.div(wg_idx, jnp.int32(cfg.m_warpgroups))
        pairs = itertools.product(range(tiling.consumer_loads), range(tiling.halo_taps))
        products = [_Product(n * tiling.consumer_loads + load, tap) for load, tap in pairs]
        ring.hand_over()

        def per_tile(i: Array, slot: Array) -> Array:
            tile = schedule.tile(worker, i, cta)
            steps = schedule.reduction(tile).steps

            def accumulate(*accs: Any) -> tuple[list[Array], list[Array], Array]:
                def per_step(step: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
                    slot, biases = carry
                    ring.wait(slot)
                    dys = self._multiply(accs, products, shared, slot, m)
                    biases = [total + self._sum(dys) for total in biases]
                    mgpu.when(step > steps.first)(lambda: ring.release(ring.previous_slot(slot)))
                    return ring.next_slot(slot), biases

                zeros = [mgpu.zero_rows(M, interpret=self.interpret) for _ in db]
                end, biases = lax.fori_loop(steps.first, steps.last, per_step, (slot, zeros))
                mgpu.wgmma_wait(0)
                mgpu.when(steps.last > steps.first)(lambda: ring.release(ring.previous_slot(end)))
                return [acc[...] for acc in accs], biases, end

            sums, biases, slot = mgpu.run_scoped(accumulate, *[mgpu.ACC((M, cfg.tile_n), jnp.float32)] * len(products))
            example_part = tile.k_part * schedule.problem.examples + tile.example
            rows = mgpu.ds((tile.m_tile * cfg.m_warpgroups + m) * M, M)
            for total, (load, halo_tap) in zip(sums, products, strict=True):
                u, c = (f(load, jnp.int32(cfg.channel_loads)) for f in (lax.div, lax.rem))
                place = schedule.place(tile, u)
                columns = mgpu.ds((tile.n_tile * cfg.channel_loads + c) * cfg.tile_n, cfg.tile_n)
                where = example_part, place, halo_tap, tile.group, rows, columns
                mgpu.store(dw, where, total.astype(dw.dtype), interpret=self.interpret)
            for ref, total in zip(db, biases, strict=True):

                @mgpu.when((tile.tap_tile == 0) & (tile.n_tile == 0) & (n == 0))
                def _(ref: Any = ref, total: Array = total) -> None:
                    ref[example_part, tile.group, rows] = total

            return slot

        lax.fori_loop(0, schedule.tiles_of(worker), per_tile, jnp.int32(0))

    def _sum(self, dys: list[Array]) -> Array:
        """The sums over pixels of portions [M, pixels] of dy, in float32."""
        return functools.reduce(jnp.add, [dy.astype(jnp.float32).sum(1) for dy in dys])

    def _multiply(
        self, accs: tuple[Any, ...], products: list[_Product], shared: _Shared, slot: Array, m: Array
    ) -> list[Array]:
        """acc[M, tile_n] += dy[pixels, M].T @ x[pixels, tile_n] for every product. At the end the slot before is free.

        Returns the portions [M, pixels] of dy that are in registers.
        """
        cfg, tiling = self.cfg, self.schedule.tiling
        dys = []
        if self.interpret:  # it has no second view of the pixels, and takes no operand from registers
            halo_axis = tiling.halo_dim + 1 - self.views.pixels.one_image
            box = lines(self.views.pixels.box(cfg.step_pixels))
            for acc, (load, tap) in zip(accs, products, strict=True):
                reach = tap * self.schedule.problem.dims[tiling.halo_dim].tap_stride if cfg.halo else 0
                for _, at in box:
                    further = tuple(j + reach if axis == halo_axis else j for axis, j in enumerate(at))
                    mgpu.wgmma(acc, shared.dy_tma.at[(slot, m, *at)].T, shared.x_tma.at[(slot, load, *further)])
            mgpu.wgmma_wait(0)
            if self.schedule.problem.bias:
                dys = [shared.dy_tma[(slot, m, *at)].T for _, at in box]
                mgpu.commit_smem()  # to the interpreter, TMA may overwrite only then what was read into registers
            return dys
        # Through registers, dy comes in portions of 64 pixels: one is loaded while another is multiplied.
        portion = M if cfg.dy_registers else cfg.pixels
        for start in range(0, cfg.pixels, portion):
            dy = shared.dy_mma.at[slot, m, mgpu.ds(start, portion)].T
            windows = [mgpu.ds(tap * tiling.halo_row + start, portion) for _, tap in products]
            xs = [shared.x_mma.at[slot, load, pixels] for (load, _), pixels in zip(products, windows, strict=True)]
            if cfg.dy_registers:
                dy = mgpu.load(dy)
                dys.append(dy)
                wgmma_from_registers(dy, list(zip(accs, xs, strict=True)))
            else:
                for acc, x in zip(accs, xs, strict=True):
                    mgpu.wgmma(acc, dy, x)
            # One portion of 64 has the registers that the next step's needs, so it is waited for: another consumer multiplies.
            mgpu.wgmma_wait(0 if cfg.dy_registers and cfg.pixels == portion else len(products))
        return dys

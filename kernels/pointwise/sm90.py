"""The pointwise kernel for Hopper: all gradients of a 1x1 convolution, from one reading of x and of the cotangent.

For pixels q, channels c of x and o of the cotangent, per example,

    g[q, o]  = ct[q, o] * act'(saved[q, o])         or ct, without an activation
    dx[q, c] = sum_o  g[q, o] * w[o, c]
    dw[o, c] = sum_q  g[q, o] * x[q, c]
    db[o]    = sum_q  g[q, o]

Two kernels read the cotangent twice, and with an activation XLA writes g before. There is little arithmetic for each byte, so
what counts is bytes. Here a thread block walks its part of the pixels, 128 a step. Its weights stay in shared memory, and its
dw in registers, from the first step to the last; each step ends with 128 pixels of dx. Of two chunks of 64 channels each:

                         a step: 128 pixels        consumer 0                 consumer 1
    g   [pixels, o]      chunks o0 o1              dx of pixels 0 - 63        dx of pixels 64 - 127
    x   [pixels, c]      chunks c0 c1              dw[o0, c0], dw[o1, c0]     dw[o0, c1], dw[o1, c1]

The producer multiplies the cotangent by the derivative in shared memory, so that it becomes g (producer.py). It also sums g for
db, before g is rounded. The consumers multiply g by w and by x (consumer.py). If dw has an odd number of blocks, each consumer
sums all of them, over its own pixels.

If a block has not all input channels, another one reads the same cotangent at about the same time, so that it comes from L2.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from .. import mosaic as mgpu
from ..epilogue import Epilogue
from ..gpu import Gpu
from ..launch import launch
from ..ring import Ring
from ..store import Buffers, Staging
from .consumer import Consumer
from .legal import illegal
from .memory import Buffer, Global, Shared
from .operands import Views, with_models
from .plan import BUFFERS, CHUNK, CONSUMERS, X_STAGES, Config, Problem, tiling
from .producer import Producer
from .schedule import Schedule
from .work import useful_macs


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the kernel of a product that `served.reasons` has nothing against. Arrays are channels first.

    x (N, C, *space), ct (N, O, *space), w (O, C, 1, ...), and a like ct with an activation -> dx (N, C, *space),
    dw (O, C, 1, ...), and db (O,) if product.outputs has it. With product.models, every array has that axis first.
    """
    problem = Problem.of(product)
    if why := illegal(problem, cfg, gpu):
        raise ValueError(why)
    views = Views(tiling(problem, cfg), jnp.dtype(product.compute_dtype), jnp.dtype(product.out_dtype), interpret)
    dx, *sums = launch(
        Backward(Schedule(views)),
        views.operands(with_models(product, operands)),
        workers=views.tiling.blocks,
        warpgroups=CONSUMERS + 1,
        macs=useful_macs(problem),
        name=name,
        interpret=interpret,
    )
    return [views.input_gradient(dx, product), *views.gradients(sums, product)]


class Backward:
    """The kernel's body: what its warpgroups share, and which of them does what."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.views, self.tiling = schedule, schedule.views, schedule.tiling
        self.problem, self.cfg, self.interpret = schedule.problem, schedule.cfg, schedule.views.interpret
        self.staging = Staging(
            box=self.views.pixels.box(self.cfg.consumer_pixels),
            columns=self.tiling.staged_columns,
            chunks=CHUNK // self.tiling.staged_columns,
            buffers=BUFFERS,
            epilogue=Epilogue(),
            dtype=self.views.out_dtype,
            interpret=self.interpret,
        )

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        t = self.tiling
        shapes = [t.sums_shape, *([t.bias_shape] if self.problem.bias else [])]
        dx = jax.ShapeDtypeStruct(self.views.results.shape, self.views.out_dtype)
        return [dx, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)]

    def scratch_types(self) -> list[Any]:
        t, cfg, box = self.tiling, self.cfg, self.views.pixels.box(self.cfg.step_pixels)
        views = functools.partial(mgpu.two_views, dtype=self.views.dtype, interpret=self.interpret)
        cotangents = [views((cfg.stages, t.slot_chunks), box, CHUNK)] * self.problem.cotangents
        return [
            *cotangents,
            views((X_STAGES, t.column_blocks), box, CHUNK),
            views((t.row_blocks, t.column_blocks), (CHUNK,), CHUNK),
            self.staging.buffers_type(CONSUMERS),
            *Ring.barriers(cfg.stages, len(cotangents) * t.slot_chunks, CONSUMERS, cluster=1),
            *Ring.barriers(X_STAGES, t.column_blocks, CONSUMERS, cluster=1),
            mgpu.Barrier(num_arrivals=t.row_blocks * t.column_blocks),
            *([mgpu.Barrier(num_arrivals=1, num_barriers=cfg.stages)] if self.problem.derivative else []),
        ]

    def body(self, names: tuple[str, ...], *refs: Any) -> None:
        """Run one warpgroup, as the producer or as a consumer. names: those of the operands, which `refs` begins with."""
        n_in, n_out, n_buffers = len(names), len(self.out_type()), 3 + self.problem.cotangents
        operands = {"a": None} | dict(zip(names, refs[:n_in], strict=True))
        dx, dw, *db = refs[n_in : n_in + n_out]
        gmem = Global(**operands, dx=dx, dw=dw, db=db[0] if db else None)
        buffers, barriers = refs[n_in + n_out :][:n_buffers], refs[n_in + n_out + n_buffers :]
        ct, *saved, x, w, out = [Buffer(b, b) if self.interpret else Buffer(*b) for b in buffers]
        full, empty, x_full, x_empty, weights_ready, *multiplied = barriers
        shared = Shared(
            ct,
            saved[0] if saved else None,
            x,
            w,
            Buffers(*out, residual_full=None),
            Ring(self.cfg.stages, full, empty),
            Ring(X_STAGES, x_full, x_empty),
            multiplied[0] if multiplied else None,
            weights_ready,
        )
        wg_idx, part = lax.axis_index("wg"), self.schedule.part(lax.axis_index("sm"))

        @mgpu.when(wg_idx == CONSUMERS)
        def _():
            Producer(self.schedule, gmem, shared, part).run()

        @mgpu.when(wg_idx < CONSUMERS)
        def _():
            Consumer(self.schedule, self.staging, gmem, shared, part, wg_idx).run()

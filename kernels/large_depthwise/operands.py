"""The large-kernel depthwise kernel's operands and results: channels last, and as a kernel's TMA sees them in global memory."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from pallas_conv.spec import Product

from .. import layouts
from .. import mosaic as mgpu
from ..partials import pairwise_sum
from ..views import PixelBoxes, ResultBoxes, pad, reordered
from .plan import BLOCK, CHANNELS, CONSUMERS, LANES, ROWS, WARPS, Problem, Tiling, stored_channels


def operands_by_name(product: Product, operands: Sequence[Array]) -> dict[str, Array]:
    """The operands by name: pixels [N, *in, C], the cotangent [N, *out, C], w (C, *taps), bias (C,). C: of all models.

    Pixels are what taps read: x, or the cotangent of an input gradient.
    """
    if product.models is None:
        operands = tuple(t[None] for t in operands)
    given = dict(zip(product.operands, operands, strict=True))
    given |= {name: given[name].astype(product.compute_dtype) for name in ("x", "ct", "w") if name in given}
    found = {"pixels": layouts.flat_channels_last(given.pop("ct" if product.role == "dgrad" else "x"))}
    if "ct" in given:
        found["cotangent"] = layouts.flat_channels_last(given["ct"])
    if "w" in given:
        found["w"] = given["w"].reshape(-1, *product.spec.kernel_spatial)
    if product.bias:
        found["bias"] = given["b"].astype(jnp.float32).reshape(-1)
    return found


@dataclasses.dataclass(frozen=True)
class Views:
    """Operands and results in global memory. dtype: of operands. out_dtype: of outputs."""

    tiling: Tiling
    dtype: Any
    out_dtype: Any
    interpret: bool

    @property
    def problem(self) -> Problem:
        return self.tiling.problem

    @functools.cached_property
    def pixels(self) -> PixelBoxes:
        """The pixels, [N, *in, C]."""
        return PixelBoxes(self.problem.batch, self.problem.dims, groups=1, one_image=True, interpret=self.interpret)

    @functools.cached_property
    def outputs(self) -> ResultBoxes:
        """Outputs, [N, *out, C], of more channels than a thread block has.

        Were a box all channels and columns of some rows, Mosaic would copy it as so many bytes, those below an image, too.
        """
        stored = stored_channels(self.problem)
        return ResultBoxes(self.problem.batch, self.problem.dims, 1, stored, self.out_dtype)

    @functools.cached_property
    def cotangent(self) -> ResultBoxes:
        """The cotangent, [N, *out, C], of which a weight gradient is a sum."""
        return dataclasses.replace(self.outputs, channels=self.problem.channels, dtype=self.dtype)

    def pixels_at(self, image: Array, row: Array, column: Array) -> tuple[Any, ...]:
        """Indices, but for channels, of the pixels that eight rows of outputs from here on read with their first tap."""
        down, across = self.problem.first
        distances = jnp.int32(down), jnp.int32(across)
        return self.pixels.at([image, row, column], distances, (1, *self.tiling.loaded_shapes[0][:2]), 0)

    def outputs_at(self, image: Array, row: Array, column: Array, rows: int = ROWS) -> tuple[Any, ...]:
        """Indices, but for channels, of so many rows of outputs, or of the cotangent."""
        return self.outputs.window([image, mgpu.ds(row, rows), mgpu.ds(column, self.tiling.cfg.columns)], (0, 0), 0)

    def operands(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """The operands in global memory, by their names."""
        views = {
            "pixels": lambda a: self.pixels.view(a[..., None, :]),
            "cotangent": lambda a: self.cotangent.whole(a[..., None, :]),
            "w": self.weights,
            "bias": self.bias,
        }
        return {name: views[name](a) for name, a in given.items()}

    def weights(self, w: Array) -> Array:
        """(C, *taps) -> `Tiling.right_shape` of all channel blocks: from the last tap down to the first, zeros around them."""
        for axis, d in enumerate(self.problem.dims):
            w = reordered(w, 1 + axis, d.order)
        missing = self.problem.channel_blocks * CHANNELS - self.problem.channels
        across = self.tiling.right_shape[2] - w.shape[2]
        return pad(jnp.flip(w, 1), [(0, missing), (ROWS - 1, ROWS), (0, across)])

    def bias(self, b: Array) -> Array:
        """(C,) -> for every channel of the thread blocks as many as a consumer's sums have rows of one."""
        missing = self.problem.channel_blocks * CHANNELS - self.problem.channels
        return jnp.repeat(pad(b, [(0, missing)]), BLOCK)

    def channels_first(self, out: Array, models: int | None) -> Array:
        """An output as `outputs` has it -> (models, N, C, *out), without the first axis if models is None."""
        return layouts.channels_first(self.outputs.result(out)[..., : self.problem.channels], models)

    def sums_shape(self, num_sms: int) -> tuple[int, ...]:
        """The shape of a weight gradient's sums over pixels, of all parts: for every channel block those of its consumers.

        Of each of them [eights of taps down, blocks of taps across, four channels and 16 across, 8 down].
        """
        t = self.tiling
        blocks = self.problem.channel_blocks * CONSUMERS
        return t.parts(num_sms), blocks, t.groups, t.blocks, WARPS * BLOCK, ROWS

    def bias_shape(self, num_sms: int) -> tuple[int, ...]:
        """The shape of a bias gradient's sums, of all parts and channel blocks: what the lanes of a warpgroup have."""
        return self.tiling.parts(num_sms), self.problem.channel_blocks, WARPS, LANES

    def gradients(self, sums: Sequence[Array], product: Product) -> list[Array]:
        """Partial sums -> (C, 1, *kernel) and perhaps (C,), with the models first, if any."""
        (down, across), channels = self.problem.taps, self.problem.channels
        dw = pairwise_sum(sums[0]).reshape(-1, *sums[0].shape[2:4], WARPS, 2, BLOCK // 2, ROWS)
        dw = jnp.flip(dw, -1)  # eight taps down lie from the last to the first
        dw = jnp.transpose(
            dw, (0, 3, 1, 6, 2, 5, 4)
        )  # consumers, warps; eights, taps down; blocks, taps across, parity
        dw = dw.reshape(-1, self.tiling.groups * ROWS, self.tiling.blocks * BLOCK)[:channels, :down, :across]
        for axis, d in enumerate(self.problem.dims):
            dw = reordered(dw, 1 + axis, tuple(sorted(range(len(d.order)), key=d.order.__getitem__)))
        models = product.models or 1
        found = [dw.reshape(models, -1, 1, down, across).astype(product.result_dtypes[product.outputs.index("dw")])]
        if self.problem.bias:
            of_lanes = pairwise_sum(sums[1]).reshape(-1, WARPS, CHANNELS, LANES // CHANNELS)
            found.append(of_lanes.sum((1, 3)).reshape(-1)[:channels].reshape(models, -1))
        return found if product.models is not None else [a[0] for a in found]

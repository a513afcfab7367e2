"""The depthwise kernel's operands and results: channels last, and as a kernel's TMA sees them in global memory."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from .. import layouts
from .. import mosaic as mgpu
from ..geometry import TapAxis
from ..views import PixelBoxes, ResultBoxes, pad, reordered
from .plan import LANES, Problem, Tiling


def channels_last_operands(product: Product, operands: Sequence[Array]) -> dict[str, Array]:
    """The operands by name: x [N, *in, C], w [*kernel, group, C], ct and residual [N, *out, C], bias [C]. C: of all models.

    "x" is what taps read, so the cotangent of an input gradient is "x", that of a weight gradient "ct". Weights are those of
    each channel that results, for all channels of its group that are summed.
    """
    if product.models is None:
        operands = tuple(t[None] for t in operands)
    source, other = (operand.astype(product.compute_dtype) for operand in operands[:2])
    found = {"x": _channels_last(source)}
    if product.role == "wgrad":
        return found | {"ct": _channels_last(other)}
    group = other.shape[2]
    w = other.reshape(-1, group, *other.shape[2:])  # (groups, O / groups, C / groups, *kernel)
    summed = 2 if product.role == "fprop" else 1
    w = jnp.transpose(w, (*range(3, w.ndim), summed, 0, 3 - summed))
    found["w"] = w.reshape(*w.shape[:-2], -1)
    if product.bias:
        found["bias"] = operands[2].astype(jnp.float32).reshape(-1)
    if product.residual:
        found["residual"] = _channels_last(operands[-1].astype(product.out_dtype))
    return found


def _channels_last(a: Array) -> Array:
    """(models, N, C, *spatial) -> [N, *spatial, models * C]."""
    a = layouts.channels_last(a, groups=1)
    return a.reshape(*a.shape[:-2], -1)


@dataclasses.dataclass(frozen=True)
class Views:
    """Operands and results in global memory. dtype: of results, or of a weight gradient's cotangent."""

    tiling: Tiling
    dtype: Any
    interpret: bool

    @property
    def problem(self) -> Problem:
        return self.tiling.problem

    @property
    def dims(self) -> tuple[TapAxis, ...]:
        return self.problem.dims

    @functools.cached_property
    def pixels(self) -> PixelBoxes:
        """The pixels, [N, planes, rows, columns, G, C / G], in boxes of every plane and row, and of every stride-th column."""
        planes, rows, columns = self.dims
        whole = (dataclasses.replace(d, in_stride=1) for d in (planes, rows))
        return PixelBoxes(self.problem.batch, (*whole, columns), one_image=True, interpret=self.interpret)

    @functools.cached_property
    def outputs(self) -> ResultBoxes:
        """Arrays shaped like an output, [N, *out, G, C / G]: results and the residual, or the cotangent.

        The cotangent's channels are grouped as the pixels' are, and G is 1 for the others.
        """
        groups = self.groups if self.problem.weight_sums else 1
        dims = self.dims[3 - self.problem.ndim :]
        return ResultBoxes(self.problem.batch, dims, groups, self.problem.channels // groups, self.dtype)

    def window(self, image: Array, box: Sequence[Any], phase: tuple[int, ...], group: Any) -> tuple[Any, ...]:
        """Indices in such an array of a box (planes, rows, columns) of a phase, but for channels."""
        missing = 3 - self.problem.ndim
        return self.outputs.window([image, *box[missing:]], phase[missing:], group)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices, in a box in shared memory, of the dimensions that a convolution has not."""
        return (0,) * (3 - self.problem.ndim)

    @property
    def whole_blocks(self) -> bool:
        """Whether thread blocks divide the channels, so that each has a group of the pixels' own.

        Then TMA fills the skew with zeros. Else it is filled with the next channels, which nobody reads.
        """
        return self.problem.channels % self.tiling.cfg.channels == 0

    @property
    def groups(self) -> int:
        """The groups of pixels' channels."""
        return self.tiling.channel_blocks if self.whole_blocks else 1

    def operands(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """The operands in global memory, by their names."""
        views = {
            "x": self.input,
            "w": self.weights,
            "ct": self.shaped_like_output,
            "bias": self.per_channel,
            "residual": self.shaped_like_output,
        }
        return {name: views[name](a) for name, a in given.items()}

    def input(self, x: Array) -> Array:
        """[N, *in, C] as `pixels` has it."""
        return self.pixels.view(x.reshape(self.problem.batch, *(d.in_size for d in self.dims), self.groups, -1))

    def shaped_like_output(self, a: Array) -> Array:
        """[N, *out, C], the residual or the cotangent, as `outputs` has it."""
        return self.outputs.whole(a.reshape(*a.shape[:-1], self.outputs.groups, -1))

    def channels(self, first: Array) -> tuple[Any, ...]:
        """Indices of a thread block's channels, and of the skew, in the input and in the cotangent."""
        block, width = self.tiling.cfg.channels, self.tiling.pixel_elements
        if self.whole_blocks:
            return lax.div(first, jnp.int32(block)), mgpu.ds(jnp.int32(0), width)
        return 0, mgpu.ds(first, width)

    def weights(self, w: Array) -> Array:
        """[*kernel, group, C] -> [taps, group, C], in the order of phases and offsets, with the channels of thread blocks.

        For tensor cores [taps, C, 8]: of every eight channels of the result a matrix, from all of which they are sums, with
        zeros beside the blocks of the groups on its diagonal.
        """
        for i, d in enumerate(self.dims[3 - self.problem.ndim :]):
            w = reordered(w, i, d.order)
        w, group = self.per_channel(w.reshape(-1, *w.shape[-2:])), self.problem.group
        if not self.problem.on_tensor_cores:
            return w
        rows = jnp.tile(jnp.swapaxes(w, 1, 2), (1, 1, LANES // group))
        to, given = (lax.broadcasted_iota(jnp.int32, rows.shape, axis) for axis in (1, 2))
        return jnp.where(to % LANES // group == given // group, rows, jnp.zeros((), w.dtype))

    def per_channel(self, a: Array) -> Array:
        """[..., C] with as many channels as thread blocks have."""
        missing = self.tiling.grid[-1] * self.tiling.cfg.channels - self.problem.channels
        return pad(a, [(0, 0)] * (a.ndim - 1) + [(0, missing)])

    def channels_first(self, out: Array, models: int | None) -> Array:
        """An output as `outputs` has it -> (models, N, C, *out), without the first axis if models is None."""
        return layouts.channels_first(self.outputs.result(out), models)

    def gradients(self, sums: Array, product: Product) -> list[Array]:
        """Partial sums as `Tiling.sums_shape` -> (C, group, *kernel) and perhaps (C,), with the models first, if any."""
        problem, models = self.problem, product.models or 1
        sums = _added(sums)[..., : problem.channels]
        dims = self.dims[3 - problem.ndim :]
        count = len(problem.accumulators) if problem.whole_matrices else problem.weights
        dw, db = sums[:count], sums[count:]
        if problem.whole_matrices:
            dw, db = self._blocks(dw), db[:, 0]
        dw = dw.reshape(*(len(d.order) for d in dims), problem.group, models, -1)
        for i, d in enumerate(dims):
            dw = reordered(dw, i, tuple(sorted(range(len(d.order)), key=d.order.__getitem__)))
        dw = jnp.moveaxis(dw, (-2, -1, -3), (0, 1, 2)).astype(product.out_dtype)
        found = [dw, *([db.reshape(models, -1)] if problem.bias else [])]
        return found if product.models is not None else [a[0] for a in found]

    def _blocks(self, sums: Array) -> Array:
        """[accumulators, 16, C] -> [taps, group, C]: the blocks on the diagonals of each accumulator's matrices."""
        group, blocks, channels = self.problem.group, LANES // self.problem.group, sums.shape[-1]
        sums = pad(sums, [(0, 0), (0, 0), (0, -channels % LANES)])
        sums = sums.reshape(len(sums), 2, blocks, group, -1, blocks, group)
        sums = jnp.stack([sums[:, :, i, :, :, i] for i in range(blocks)], axis=4)
        sums = sums.reshape(*sums.shape[:3], -1)[..., :channels]
        places = [(a, i) for a, taps in enumerate(self.problem.accumulators) for i in range(len(taps))]
        return jnp.stack([sums[place] for place in places])


def _added(sums: Array) -> Array:
    """The sum over the first axis, of one half and the other, again and again: always in this order, and in few steps."""
    while (parts := len(sums)) > 1:
        sums = pad(sums, [(0, parts % 2)] + [(0, 0)] * (sums.ndim - 1))
        half = len(sums) // 2
        sums = sums[:half] + sums[half:]
    return sums[0]

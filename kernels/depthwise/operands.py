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
from ..family import channels_of_a_group
from ..geometry import TapAxis
from ..partials import pairwise_sum
from ..views import PixelBoxes, ResultBoxes, pad, reordered
from .plan import LANES, Problem, whole_group
from .tiling import Tiling


def channels_last_operands(product: Product, operands: Sequence[Array]) -> dict[str, Array]:
    """The operands by name: pixels and saved [N, *in, C], w [*kernel, group, C], partner and residual [N, *out, C], bias [C].

    C: of all models, every group padded to `whole_group`. Pixels are what taps read: x, or the cotangent of an input gradient,
    and of a whole backward pass. Weights are those of each channel that results, for all channels of its group that are summed.
    """
    if product.models is None:
        operands = tuple(t[None] for t in operands)
    given = dict(zip(product.operands, operands, strict=True))
    groups, group = product.spec.groups, whole_group(product)
    channels_last = lambda a: layouts.flat_channels_last(_with_whole_groups(a, 2, groups, group))
    given |= {name: given[name].astype(product.compute_dtype) for name in ("x", "ct", "w", "a") if name in given}
    pixels, partner = ("ct", "x") if product.role in ("dgrad", "bwd") else ("x", "ct")
    found = {"pixels": channels_last(given[pixels])}
    if partner in given:
        found["partner"] = channels_last(given[partner])
    if "a" in given:
        found["saved"] = channels_last(given["a"])
    if "w" in given:
        w = _with_whole_groups(_with_whole_groups(given["w"], 1, groups, group), 2, 1, group)
        found["w"] = _weights_last(w, summed=2 if product.role == "fprop" else 1)
    if product.bias:
        found["bias"] = _with_whole_groups(given["b"].astype(jnp.float32), 1, groups, group).reshape(-1)
    if product.residual:
        found["residual"] = channels_last(given["r"].astype(product.out_dtype))
    return found


def _weights_last(w: Array, summed: int) -> Array:
    """(models, C, group, *kernel) -> [*kernel, group, C]. summed: which axis is, 1 or 2."""
    group = w.shape[2]
    w = w.reshape(-1, group, *w.shape[2:])  # (groups, channels that result, channels of x, *kernel)
    w = jnp.transpose(w, (*range(3, w.ndim), summed, 0, 3 - summed))
    return w.reshape(*w.shape[:-2], -1)


def _with_whole_groups(a: Array, axis: int, groups: int, group: int) -> Array:
    """The array with each of its groups along an axis padded to `group` channels, by zeros after its own."""
    missing = group - a.shape[axis] // groups
    if not missing:
        return a
    apart = a.reshape(*a.shape[:axis], groups, -1, *a.shape[axis + 1 :])
    padded = pad(apart, [(0, 0)] * (axis + 1) + [(0, missing)] + [(0, 0)] * (a.ndim - axis - 1))
    return padded.reshape(*a.shape[:axis], groups * group, *a.shape[axis + 1 :])


def _without_zeros(a: Array, axis: int, group: int, wanted: int) -> Array:
    """The first `wanted` channels of each group of `group` along an axis: the inverse of `_with_whole_groups`."""
    if group == wanted:
        return a
    apart = a.reshape(*a.shape[:axis], -1, group, *a.shape[axis + 1 :])
    apart = lax.slice_in_dim(apart, 0, wanted, axis=axis + 1)
    return apart.reshape(*a.shape[:axis], -1, *a.shape[axis + 1 :])


@dataclasses.dataclass(frozen=True)
class Views:
    """Operands and results in global memory. dtype: of operands. out_dtype: of outputs, and of the residual."""

    tiling: Tiling
    dtype: Any
    out_dtype: Any
    interpret: bool

    @property
    def problem(self) -> Problem:
        return self.tiling.problem

    @property
    def dims(self) -> tuple[TapAxis, ...]:
        """The dimensions that the convolution has, of (planes, rows, columns) the last ones."""
        return self.problem.dims[3 - self.problem.ndim :]

    @functools.cached_property
    def pixels(self) -> PixelBoxes:
        """The pixels, [N, *in, C], in boxes of every plane and row, and of every stride-th column."""
        *others, columns = self.dims
        dims = *(dataclasses.replace(d, in_stride=1) for d in others), columns
        return PixelBoxes(self.problem.batch, dims, groups=1, one_image=True, interpret=self.interpret)

    @functools.cached_property
    def outputs(self) -> ResultBoxes:
        """Outputs, [N, *out, C], and the residual."""
        return ResultBoxes(self.problem.batch, self.dims, 1, self.problem.channels, self.out_dtype)

    @functools.cached_property
    def partners(self) -> ResultBoxes:
        """The partner of the pixels, [N, *out, C]: what they are multiplied with in sums over them."""
        return dataclasses.replace(self.outputs, dtype=self.dtype)

    def pixels_at(self, first: Sequence[Array], moves: Sequence[Any]) -> tuple[Any, ...]:
        """Indices of a load of pixels but for channels. first: (image, plane, row, column), to be moved so far in space."""
        image, *space = first
        at = [image, *space[len(self.missing) :]]
        distances = [jnp.asarray(move, jnp.int32) for move in moves[len(self.missing) :]]
        return self.pixels.at(at, distances, (1, *self.tiling.load_pixels[len(self.missing) :]), 0)

    def output_at(self, image: Array, box: Sequence[Any], phase: tuple[int, ...]) -> tuple[Any, ...]:
        """Indices of a box (planes, rows, columns) of a phase of an output, or of the partner, but for channels."""
        return self.outputs.window([image, *box[len(self.missing) :]], phase[len(self.missing) :], 0)

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of the first dimensions of a box in shared memory, which convolutions of fewer than three do not have."""
        return (0,) * (3 - self.problem.ndim)

    def operands(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """The operands in global memory, by their names."""
        views = {
            "pixels": lambda a: self.pixels.view(a[..., None, :]),
            "w": self.weights,
            "partner": lambda a: self.partners.whole(a[..., None, :]),
            "saved": lambda a: self.pixels.view(a[..., None, :]),
            "bias": self.per_channel,
            "residual": lambda a: self.outputs.whole(a[..., None, :]),
        }
        return {name: views[name](a) for name, a in given.items()}

    def channels(self, first: Array) -> Any:
        """A thread block's channels of the pixels and of their partner. The skew gets the next ones, which nobody reads."""
        return mgpu.ds(first, self.tiling.pixel_elements)

    def weights(self, w: Array) -> Array:
        """[*kernel, group, C] -> [taps, group, C], in the order of phases and offsets, with the channels of thread blocks.

        For tensor cores [taps, C, 8]: of every eight channels of the result a matrix, from all of which they are sums, with
        zeros beside the blocks of the groups on its diagonal.
        """
        for i, d in enumerate(self.dims):
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
        out = self.outputs.result(out)
        return layouts.channels_first(
            _without_zeros(out, out.ndim - 1, self.problem.group, self.problem.output_group), models
        )

    def gradients(self, sums: Array, product: Product) -> list[Array]:
        """Partial sums as `Tiling.sums_shape` -> (O, C / groups, *kernel) and perhaps (O,), with the models first, if any."""
        problem, models = self.problem, product.models or 1
        sums = pairwise_sum(sums)[..., : problem.channels]
        count = len(problem.accumulators) if problem.whole_matrices else problem.weights
        dw, db = sums[:count], sums[count:]
        if problem.whole_matrices:
            dw, db = self._blocks(dw), db.sum(1) if problem.derivative else db[:, 0]
        dw = dw.reshape(*(len(d.order) for d in self.dims), problem.group, models, -1)
        for i, d in enumerate(self.dims):
            dw = reordered(dw, i, tuple(sorted(range(len(d.order)), key=d.order.__getitem__)))
        dw = jnp.moveaxis(dw, (-2, -1, -3), (0, 1, 2))
        if problem.backward:  # whose pixels are the cotangent, so that the partner's channels are those that are summed
            dw = dw.reshape(models, -1, problem.group, *dw.shape[2:]).swapaxes(2, 3).reshape(dw.shape)
        of_x, of_ct = channels_of_a_group(product)
        dw = _without_zeros(dw[:, :, :of_x], 1, problem.group, of_ct)
        dw = dw.astype(product.result_dtypes[product.outputs.index("dw")])
        found = [dw]
        if problem.bias:
            found.append(_without_zeros(db.reshape(models, -1), 1, problem.group, of_ct))
        return found if product.models is not None else [a[0] for a in found]

    def _blocks(self, sums: Array) -> Array:
        """[accumulators, 16, C] -> [taps, group, C]: the blocks on the diagonals of each accumulator's matrices."""
        group, blocks, channels = self.problem.group, LANES // self.problem.group, sums.shape[-1]
        sums = pad(sums, [(0, 0), (0, 0), (0, -channels % LANES)])
        sums = sums.reshape(len(sums), 2, blocks, group, -1, blocks, group)
        sums = jnp.stack([sums[:, :, i, :, :, i] for i in range(blocks)], axis=4)
        sums = sums.reshape(*sums.shape[:3], -1)[..., :channels]
        places = {tap: (a, i) for a, taps in enumerate(self.problem.accumulators) for i, tap in enumerate(taps)}
        return jnp.stack([sums[places[tap]] for tap in range(self.problem.taps)])

"""XLA's work around the dense kernel where taps are channels (Config.im2col, col2im_dims), or sums are of parts of channels.

Both mappings are for channels too few for a tensor core: taps become input channels by gathering what each of them reads
(im2col), or output channels by multiplying every pixel with all of them and adding what meets (col2im).
"""

import functools

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from ..epilogue import Epilogue
from ..geometry import TapAxis
from ..partials import add_parts
from ..views import of_several, pad, reordered
from .plan import Config, Problem


def prepared(x: Array, w: Array, dims: tuple[TapAxis, ...], cfg: Config) -> tuple[Array, Array]:
    """Pixels [N, *in, G, C] and weights [*kernel, G, O, C], rearranged for Problem.under(cfg)."""
    if cfg.im2col:
        return _im2col_pixels(x, dims[-1]), _im2col_weights(w, dims[-1])
    if cfg.col2im_dims:
        return x, _col2im_weights(w, dims[-cfg.col2im_dims :])
    return x, w


def finished(
    sums: Array,
    problem: Problem,
    cfg: Config,
    bias: Array | None,
    residual: Array | None,
    epilogue: Epilogue,
    out_dtype: DTypeLike,
) -> list[Array]:
    """The outputs [N, *out, G O] from the kernel's float32 sums: add the taps or parts, then do the epilogue."""
    z = _add_taps(sums, problem, cfg.col2im_dims) if cfg.col2im_dims else add_parts(sums, cfg.split_k, sums.ndim - 1)
    z = z if bias is None else z + bias.reshape((1,) * (z.ndim - 1) + (-1,))
    z = z if residual is None else z + residual.reshape(z.shape).astype(z.dtype)
    outs = dict(epilogue(z, out_dtype))
    return [outs[i] for i in range(len(outs))]


def _im2col_pixels(x: Array, dim: TapAxis) -> Array:
    """[N, *in, G, C] -> [N, *in[:-1], out, G, taps C]: the pixels that each tap of the last dimension reads."""
    columns, axis = dim.columns(), x.ndim - 3
    low, high = max(0, -columns[0][0]), max(0, columns[-1][1] - dim.in_size)
    x = pad(x, [(0, 0)] * axis + [(low, high), (0, 0), (0, 0)])
    return jnp.concatenate([lax.slice_in_dim(x, low + j, low + end, stride, axis) for j, end, stride in columns], -1)


def _im2col_weights(w: Array, dim: TapAxis) -> Array:
    """[*kernel, G, O, C] -> [*kernel[:-1], 1, G, O, taps C]."""
    w = jnp.moveaxis(reordered(w, w.ndim - 4, dim.order), -4, -2)
    return w.reshape(*w.shape[:-4], 1, *w.shape[-4:-2], -1)


def _col2im_weights(w: Array, summed: tuple[TapAxis, ...]) -> Array:
    """[*kernel, G, O, C] -> [*rest, *(1 for each summed), G, taps O, C]."""
    rest = w.ndim - 3 - len(summed)
    for i, d in enumerate(summed):
        w = reordered(w, rest + i, d.order)
    w = jnp.moveaxis(w, w.ndim - 3, rest)
    return w.reshape(*w.shape[:rest], *(1,) * len(summed), w.shape[rest], -1, w.shape[-1])


def _add_taps(sums: Array, problem: Problem, count: int) -> Array:
    """[N, *in, G taps O] -> [N, *out, G O]: the sum over the taps of the last `count` dimensions."""
    dims = problem.dims
    groups = of_several(problem.groups, problem.groups)
    sums = sums.reshape(*sums.shape[:-1], *groups, *(len(d.order) for d in dims[-count:]), problem.out_channels)
    for axis in range(len(dims), len(dims) - count, -1):
        sums = _add_taps_along(sums, dims[axis - 1], axis)
    return sums.reshape(*sums.shape[:-2], -1) if groups else sums


def _add_taps_along(sums: Array, dim: TapAxis, axis: int) -> Array:
    """[..., in, ..., taps, O] -> [..., out, ..., O]: the sum over the taps of one dimension."""
    phases = []
    for p in range(dim.out_stride):
        terms = [_rows(lax.index_in_dim(sums, t, -2, False), axis, shift, dim.rows) for t, shift in dim.shifts(p)]
        shape = (*sums.shape[:axis], dim.rows, *sums.shape[axis + 1 : -2], sums.shape[-1])
        phases.append(functools.reduce(jnp.add, terms) if terms else jnp.zeros(shape, sums.dtype))
    out = jnp.stack(phases, axis + 1)
    out = out.reshape(*out.shape[:axis], dim.rows * dim.out_stride, *out.shape[axis + 2 :])
    return lax.slice_in_dim(out, 0, dim.out_size, axis=axis)


def _rows(a: Array, axis: int, start: int, count: int) -> Array:
    """`count` entries along an axis, from `start` on. Zeros stand for entries outside of the array."""
    first, last = (min(max(at, 0), a.shape[axis]) for at in (start, start + count))
    before = min(max(-start, 0), count)
    widths = [(0, 0)] * a.ndim
    widths[axis] = (before, count - before - (last - first))
    return pad(lax.slice_in_dim(a, first, last, axis=axis), widths)

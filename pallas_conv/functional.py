"""Convolutions as functions: batched, in either layout, with a fused epilogue.

`apply` binds the primitive, for layers, `pallas_conv.lax`, `conv` and `conv_transpose`: every transformation of JAX goes
through it. Backward it is one fused equation; the input gradient of `conv` is the product of `conv_transpose`, and the reverse.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from . import arguments, batching, lowering
from . import padding as paddings
from .dispatch.implementation import Implementation, preferences
from .equation import Op, wider
from .formulations.canonical import adjoint_weight
from .primitives import bind, contract, partitions
from .spec import ConvSpec, dilated

batching.register()
lowering.register()

type Ints = int | Sequence[int]
type Padding = str | int | Sequence[int] | Sequence[tuple[int, int]]


def apply(x: Array, w: Array, b: Array | None, r: Array | None, op: Op, out_dtype: np.dtype) -> Array:
    """act(conv(x, w) + b + r) by the primitives.

    x: (*N, C, *in), w: (O, C // groups, *kernel), b: (O,), r: (*N, O, *out) -> (*N, O, *out). On an explicit mesh, images that
    are sharded along spatial axes are gathered first, and the result is sharded like x, as lax does.
    """
    ndim, sharding = op.spec.ndim, jax.typeof(x).sharding
    if sharding.mesh.empty or not any(spatial := partitions(jax.typeof(x))[-ndim:]):
        return _bound(x, w, b, r, op, out_dtype)

    def along_images(t: Array, axes: Sequence[Any]) -> Array:
        return jax.reshard(t, sharding.update(spec=PartitionSpec(*partitions(jax.typeof(t))[:-ndim], *axes)))

    whole = (None,) * ndim
    y = _bound(along_images(x, whole), w, b, None if r is None else along_images(r, whole), op, out_dtype)
    parts = [math.prod(sharding.mesh.shape[name] for name in jax.tree.leaves(axes)) for axes in spatial]
    divisible = [n % k == 0 for n, k in zip(y.shape[-ndim:], parts, strict=True)]
    return along_images(y, [axes if fits else None for axes, fits in zip(spatial, divisible, strict=True)])


def _bound(x: Array, w: Array, b: Array | None, r: Array | None, op: Op, out_dtype: np.dtype) -> Array:
    operands = {name: t for name, t in zip("xwbr", (x, w, b, r), strict=True) if t is not None}
    if set(operands) == {"x", "w"} and op.activation is None:
        return contract("fprop", x, w, op, out_dtype)  # bilinear: jax.linear_transpose works
    return bind("affine", op, operands, (("y", out_dtype),))["y"]


def make_op(
    x: Array,
    w: Array,
    b: Array | None,
    *,
    strides: Sequence[int],
    padding: paddings.Pairs,
    input_dilation: Sequence[int],
    kernel_dilation: Sequence[int],
    groups: int,
    activation: str | None,
    precision: Any,
    compute_dtype: Any,
    out_dtype: Any,
    implementation: Implementation | None,
) -> tuple[Op, np.dtype]:
    """The static part of a call on channels-first operands, and the dtype of its result."""
    ndim = len(strides)
    arguments.operand_dtypes(x, w, compute_dtype)
    spatial = x.shape[x.ndim - ndim :]
    arguments.channels(x.shape[-ndim - 1], w.shape[0], w.shape[1], groups)
    spec = ConvSpec(
        strides=tuple(strides),
        padding=tuple(padding),
        input_dilation=tuple(input_dilation),
        kernel_dilation=tuple(kernel_dilation),
        groups=groups,
        in_spatial=tuple(spatial),
        kernel_spatial=tuple(w.shape[2:]),
    )
    arguments.extents(spec.kernel_spatial, [*map(dilated, spatial, input_dilation)], spec.padding)
    arguments.real_or_complex((x.dtype, w.dtype), compute_dtype=compute_dtype, out_dtype=out_dtype)
    compute = jnp.dtype(compute_dtype or x.dtype)
    weak = jax.typeof(x).weak_type and jax.typeof(w).weak_type  # one strong operand makes a strong result
    sum_type = x if weak else x.dtype
    out = out_dtype or (compute if compute_dtype or b is None else jnp.result_type(sum_type, b))
    activation = arguments.activation(activation)
    arguments.activated(activation, jnp.dtype(out))
    op = Op(
        spec=spec,
        compute_dtype=compute,
        sum_dtype=wider(compute, out) if out_dtype else compute,
        activation=activation,
        precision=arguments.precision(precision),
        implementation=preferences(implementation),
    )
    return op, jnp.dtype(out)


def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "ZEROS",
    residual: Array | None = None,
    activation: str | None = None,
    layout: str = "channels_first",
    precision: Any = None,
    compute_dtype: Any = None,
    out_dtype: Any = None,
    implementation: Implementation | None = None,
) -> Array:
    """activation(conv(x, w) + b + residual). As in deep learning, the kernel is not flipped: a cross-correlation.

    Batches are axes of x, or `jax.vmap`'s; every transformation of JAX goes through it, with one fused equation backward.

    **Arguments:**

    - `x`: `(*N, C, *S)`, or `(*N, *S, C)` for `layout="channels_last"`, with any number of batch axes N and spatial axes S.
    - `w`: `(O, C // groups, *K)`, or `(*K, C // groups, O)`. x and w are of one dtype, floating-point, complex or integer
        (which has no gradients), unless `compute_dtype` is given.
    - `b`: `(O,)` or None; of any dtype, with which that of the result is promoted.
    - `residual`: an array of the shape and dtype of the result, added before the activation; or None.
    - `stride`, `dilation`: an int, or one a spatial dimension.
    - `padding`: an int, ints or (before, after) pairs, one a spatial dimension, in elements; negative ones crop; or `"SAME"`,
        `"SAME_LOWER"`, `"VALID"`, `"CAUSAL"` (all of it before).
    - `padding_mode`: `"ZEROS"`, `"REFLECT"`, `"REPLICATE"` or `"CIRCULAR"`, as in `equinox.nn.Conv`.
    - `activation`: None, `"relu"`, `"leaky_relu"` (slope 0.01), `"gelu"` (exact), `"gelu_tanh"`, `"silu"`, `"tanh"` or
        `"sigmoid"`.
    - `precision`: as in `jax.lax.conv_general_dilated`; None follows `jax.default_matmul_precision`.
    - `compute_dtype`: what both operands are cast to and multiplied in; sums are at least float32; gradients have their
        operands' dtypes. None: x and w must agree.
    - `out_dtype`: of the result. None: `compute_dtype` if that is given, else what x + b would have.
    - `implementation`: a name, a tuple of names in order of preference, or None, see `pallas_conv.implementation`.

    **Returns:** `(*N, O, *T)` or `(*N, *T, O)`.

    **Raises:** `ValueError` for shapes and settings that do not fit, `TypeError` for operands that are no arrays or differ in
    dtype, `UnsupportedError` where a strict implementation does not serve a product.
    """
    x, w, b, ndim, batch = _operands_of(x, w, b, layout)
    kernel = w.shape[2:]
    stride = arguments.per_dimension("stride", stride, ndim, 1)
    dilation = arguments.per_dimension("dilation", dilation, ndim, 1)
    mode = arguments.padding_mode(padding_mode, transposed=False)
    pairs = paddings.conv_pairs(arguments.padding(padding, ndim), x.shape[-ndim:], kernel, stride, dilation)
    if mode != "ZEROS":
        arguments.padded_by_mode(x.shape[-ndim:], pairs, mode)
        x, pairs = paddings.pad(x, pairs, mode), ((0, 0),) * ndim
    op, out = make_op(
        x,
        w,
        b,
        strides=stride,
        padding=pairs,
        input_dilation=(1,) * ndim,
        kernel_dilation=dilation,
        groups=arguments.count("groups", groups, 1),
        activation=activation,
        precision=precision,
        compute_dtype=arguments.dtype("compute_dtype", compute_dtype),
        out_dtype=arguments.dtype("out_dtype", out_dtype),
        implementation=implementation,
    )
    return _run(x, w, b, residual, op, out, batch, layout)


def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = 0,
    output_padding: Ints = 0,
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "ZEROS",
    residual: Array | None = None,
    activation: str | None = None,
    layout: str = "channels_first",
    precision: Any = None,
    compute_dtype: Any = None,
    out_dtype: Any = None,
    implementation: Implementation | None = None,
) -> Array:
    """activation(conv_transpose(x, w) + b + residual), with the algebra of `equinox.nn.ConvTranspose`.

    That is the convolution of x dilated by the stride, see section 4 of https://arxiv.org/abs/1603.07285. `stride`, `padding`
    and `dilation` are those of the convolution that it goes against. The kernel is **not** flipped and its channels are not
    exchanged: `w` is `(O, C // groups, *K)`, or `(*K, C // groups, O)`, with C the channels of x. For the exact transpose of
    a convolution with weights `w`, pass `transpose_weight(w, groups)`, the convolution's settings (of CAUSAL padding, the
    pairs), and the `output_padding` that makes up for what its stride left over.

    **Arguments:** as `conv`, and

    - `output_padding`: an int, or one a spatial dimension, less than the stride: added after the output, except for SAME and
        SAME_LOWER, where it shortens it (as in equinox).
    - `padding`: with `"CAUSAL"`, output o sees inputs i with i * stride <= o.
    - `padding_mode`: `"ZEROS"`, or `"CIRCULAR"` with `padding="SAME"` or `"SAME_LOWER"` and no output_padding.

    **Returns:** `(*N, O, *T)` or `(*N, *T, O)`, T = (S - 1) * stride + dilation * (K - 1) + 1 - sum(padding) + output_padding.

    **Raises:** as `conv`; `NotImplementedError` for other combinations of `padding_mode`, `padding` and `output_padding`.
    """
    x, w, b, ndim, batch = _operands_of(x, w, b, layout)
    stride = arguments.per_dimension("stride", stride, ndim, 1)
    dilation = arguments.per_dimension("dilation", dilation, ndim, 1)
    pairs_of_conv = arguments.padding(padding, ndim)
    output_padding = arguments.output_padding(output_padding, stride)
    mode = arguments.padding_mode(padding_mode, transposed=True)
    pairs = paddings.transposed_pairs(pairs_of_conv, w.shape[2:], stride, dilation, output_padding)
    if mode == "CIRCULAR":
        arguments.circular_transpose(pairs_of_conv, output_padding)
        x, pairs = paddings.wrap_transposed(x, pairs, stride)
    op, out = make_op(
        x,
        w,
        b,
        strides=(1,) * ndim,
        padding=pairs,
        input_dilation=stride,
        kernel_dilation=dilation,
        groups=arguments.count("groups", groups, 1),
        activation=activation,
        precision=precision,
        compute_dtype=arguments.dtype("compute_dtype", compute_dtype),
        out_dtype=arguments.dtype("out_dtype", out_dtype),
        implementation=implementation,
    )
    return _run(x, w, b, residual, op, out, batch, layout)


def transpose_weight(w: Array, groups: int = 1, layout: str = "channels_first") -> Array:
    """The weight with which `conv_transpose` is the exact linear transpose of `conv` with `w`, and the other way round.

    With the same stride, padding, dilation and groups, and the `output_padding` that restores the shape; but CAUSAL, which is
    causal both ways, has to be spelled out for one of them: `((dilation * (kernel - 1), 0),)`.

    Taps are reversed, and input and output channels exchanged within each group. Of an equinox layer:
    `eqx.tree_at(lambda t: t.weight, conv_transpose, transpose_weight(conv.weight, conv.groups))`.

    **Arguments:**

    - `w`: `(O, C // groups, *K)`, or `(*K, C // groups, O)` for `layout="channels_last"`; of any dtype.
    - `groups`: of channels, convolved separately.
    - `layout`: `"channels_first"` or `"channels_last"`.

    **Returns:** `(C, O // groups, *K)` or `(*K, O // groups, C)`, of the dtype of w.

    **Raises:** `ValueError` for shapes and settings that do not fit, `TypeError` for a w that is no array.
    """
    w, groups = arguments.array("w", w), arguments.count("groups", groups, 1)
    if w.ndim < 3:
        raise ValueError(f"w must have two channel axes and at least one spatial one; its shape is {w.shape}")
    if arguments.layout(layout) == "channels_last":
        w = jnp.moveaxis(w, (-1, -2), (0, 1))
    arguments.channels(w.shape[1] * groups, w.shape[0], w.shape[1], groups)
    w = adjoint_weight(w, groups)
    return jnp.moveaxis(w, (0, 1), (-1, -2)) if layout == "channels_last" else w


# ---------------------------------------------------------------- operands and results


def _run(
    x: Array,
    w: Array,
    b: Array | None,
    residual: Any,
    op: Op,
    out_dtype: np.dtype,
    batch: tuple[int, ...],
    layout: str,
) -> Array:
    """The function of checked channels-first operands; its result in the caller's layout."""
    op = op.replace(channels_last=layout == "channels_last")
    r = None if residual is None else _residual(residual, op, w, batch, layout, out_dtype)
    y = apply(x, w, b, r, op, out_dtype)
    return channels_last(y, batch) if layout == "channels_last" else y


def _residual(r: Any, op: Op, w: Array, batch: tuple[int, ...], layout: str, out_dtype: np.dtype) -> Array:
    """The residual, checked against the result's shape, channels first."""
    spatial, last = op.spec.out_spatial, layout == "channels_last"
    shape = (*batch, *spatial, w.shape[0]) if last else (*batch, w.shape[0], *spatial)
    r = arguments.residual(r, shape, out_dtype)
    return channels_first(r, op.spec.ndim) if last else r


# ---------------------------------------------------------------- layouts


def channels_first(x: Array, ndim: int) -> Array:
    """(*N, *S, C) -> (N, C, *S). With one batch axis on the inside of the transposes, XLA takes them into its convolution."""
    x = x.reshape(math.prod(x.shape[: -ndim - 1]), *x.shape[-ndim - 1 :])
    return jnp.moveaxis(x, -1, 1)


def channels_last(y: Array, batch: tuple[int, ...]) -> Array:
    """(N, O, *T) -> (*batch, *T, O)."""
    y = jnp.moveaxis(y, 1, -1)
    return y.reshape(*batch, *y.shape[1:])


def _operands_of(x: Any, w: Any, b: Any, layout: str) -> tuple[Array, Array, Array | None, int, tuple[int, ...]]:
    """The checked operands, channels first; the number of spatial axes; and the batch axes of x."""
    arguments.layout(layout)
    x, w = arguments.array("x", x), arguments.array("w", w)
    b = None if b is None else arguments.array("b", b)
    ndim = w.ndim - 2
    if ndim < 1:
        raise ValueError(f"w must have two channel axes and at least one spatial one; its shape is {w.shape}")
    if x.ndim < ndim + 1:
        raise ValueError(
            f"x must have at least {ndim + 1} axes for a w of shape {w.shape}: channels and {ndim} spatial ones; its shape is "
            f"{x.shape}"
        )
    batch = x.shape[: -ndim - 1]
    if layout == "channels_last":
        x, w = channels_first(x, ndim), jnp.moveaxis(w, (-1, -2), (0, 1))
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"b must have shape {w.shape[:1]}, one entry an output channel; got {b.shape}")
    return x, w, b, ndim, batch

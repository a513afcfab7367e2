"""`inox.nn.Linear`, `Conv` and `ConvTransposed` over this package's primitives. Needs the optional package inox.

Subclasses of the inox layers (https://inox.readthedocs.io/en/stable/api/inox.nn.linear.html): same constructor, same
parameters for the same key or `inox.random.set_rng(init=...)`, same leaves in the same order, same channels-last inputs with
any number of batch dimensions. There are no extras: every attribute of an inox module is a leaf, so one more would change
the tree. The implementation follows the context `pallas_conv.implementation`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import arguments, functional
from .. import padding as paddings

try:
    import inox.nn as stock
except ModuleNotFoundError as error:
    if error.name not in ("inox", "inox.nn"):  # inox is here, something that it needs is not
        raise
    raise ImportError("pallas_conv.inox needs the package inox: pip install inox", name="inox") from error

__all__ = ["Conv", "ConvTransposed", "Linear"]

Linear = stock.Linear  # one matmul and no convolution: inox's own class


class Conv(stock.Conv):
    """`inox.nn.Conv`: y = conv(x, kernel) + bias, channels last. As in deep learning, the kernel is not flipped.

    **Arguments:** those of `inox.nn.Conv`, in its order.

    - `in_channels`, `out_channels`: both divisible by `groups`.
    - `kernel_size`: a sequence, one int a spatial dimension.
    - `bias`: whether to add one.
    - `stride`, `dilation`: an int, or one a spatial dimension.
    - `padding`: an int, or (before, after) pairs, one a spatial dimension; negative ones crop.
    - `groups`: of channels, convolved separately.
    - `key`: for the kernel. None: `inox.random.get_rng("init").split()`.

    **Parameters:** `kernel`, of shape `(*kernel_size, in_channels // groups, out_channels)`, uniform in plus or minus
    `1 / sqrt(prod(kernel_size) * in_channels // groups)`, and `bias`, `(out_channels,)` zeros, or None.

    **Raises:** `TypeError` for a `kernel_size` that is no sequence, `ValueError` for other values that do not fit,
    `AssertionError` without `key` outside `inox.random.set_rng`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        bias: bool = True,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        padding: int | Sequence[tuple[int, int]] = 0,
        groups: int = 1,
        key: Array | None = None,
    ):
        sizes = _concrete("kernel_size", kernel_size)  # inox keeps what it is given
        if not isinstance(sizes, Sequence):
            raise TypeError(
                f"kernel_size must be a sequence, one int a spatial dimension, such as (3, 3); got {kernel_size!r}"
            )
        arguments.per_dimension("kernel_size", sizes, len(sizes), 1)
        _configuration(len(sizes), stride, dilation, padding, groups, self._transposed)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            arguments.count(name, channels, 1)
            if channels % groups:
                raise ValueError(f"{name} (={channels}) must be divisible by groups (={groups})")
        super().__init__(in_channels, out_channels, kernel_size, bias, stride, dilation, padding, groups, key)

    @property
    def _transposed(self) -> bool:
        return isinstance(self, stock.ConvTransposed)

    def __call__(self, x: Array) -> Array:
        """**Arguments:**

        - `x`: the input, of shape `(*batch, dim_1, ..., dim_N, in_channels)` and the dtype of the kernel. Any number of
            batch dimensions, or none.

        **Returns:** an array of shape `(*batch, new_dim_1, ..., new_dim_N, out_channels)`, of the dtype that adding the bias
        gives.

        **Raises:** `ValueError` for too few dimensions or another number of channels, `TypeError` for another dtype, for
        what is no array, and for a layer whose configuration is traced, `UnsupportedError` where a strict implementation
        does not serve a product.
        """
        with jax.named_scope(f"pallas_conv.inox.{type(self).__name__}"):
            return _call(self, x)


class ConvTransposed(Conv, stock.ConvTransposed):
    """`inox.nn.ConvTransposed`: the convolution of a stride-dilated x, padded by `dilation * (kernel_size - 1) - padding`.

    Arguments, parameters and errors are those of `Conv`. As in inox, the kernel has the shape of a convolution's,
    `(*kernel_size, in_channels // groups, out_channels)`, and is **not** flipped: `pallas_conv.transpose_weight(kernel,
    groups, layout="channels_last")` makes that of the exact transpose. There is no output padding.
    """


def _call(layer: Any, x: Any) -> Array:
    """The layer's result, by the primitives, which are channels first."""
    ndim = len(layer.kernel_size)
    name, transposed = type(layer).__name__, layer._transposed
    x, w = arguments.array("x", x), arguments.array("kernel", layer.kernel())
    b = None if layer.bias is None else arguments.array("bias", layer.bias())
    if w.ndim != ndim + 2:
        raise ValueError(
            f"kernel of `{name}` must have shape (*kernel_size, in_channels // groups, out_channels), {ndim + 2} dimensions; "
            f"its shape is {w.shape}. Evaluate stacked layers by jax.vmap"
        )
    if x.ndim < ndim + 1:
        raise ValueError(
            f"x must have at least {ndim + 1} dimensions for `{name}`: (*batch, {ndim} spatial dimensions, channels); its "
            f"shape is {x.shape}"
        )
    if b is not None and b.shape not in (w.shape[-1:], (1,), ()):
        raise ValueError(f"bias of `{name}` must have shape {w.shape[-1:]}, one entry an output channel; got {b.shape}")
    if x.dtype != w.dtype:
        raise TypeError(
            f"x and the kernel of `{name}` must have the same dtype; got x: {x.dtype.name}, kernel: {w.dtype.name}. Cast one "
            f"of them"
        )
    stride, dilation, padding, groups = _configuration(
        ndim, layer.stride, layer.dilation, layer.padding, layer.groups, transposed
    )
    ones = (1,) * ndim
    if transposed:
        kernel_size = arguments.per_dimension("kernel_size", _concrete("kernel_size", layer.kernel_size), ndim, 1)
        pairs = paddings.transposed_pairs(padding, kernel_size, stride, dilation, (0,) * ndim)
    else:
        pairs = paddings.conv_pairs(padding, x.shape[-ndim - 1 : -1], w.shape[:-2], stride, dilation)
    b = None if b is None else jnp.broadcast_to(b, w.shape[-1:])
    batch = x.shape[: -ndim - 1]
    x, w = functional.channels_first(x, ndim), jnp.moveaxis(w, (-1, -2), (0, 1))
    op, out_dtype = functional.make_op(
        x,
        w,
        b,
        strides=ones if transposed else stride,
        padding=pairs,
        input_dilation=stride if transposed else ones,
        kernel_dilation=dilation,
        groups=groups,
        activation=None,
        precision=None,
        compute_dtype=None,
        out_dtype=None,
        implementation=None,
    )
    return functional.channels_last(functional.apply(x, w, b, None, op.replace(channels_last=True), out_dtype), batch)


type _Configuration = tuple[tuple[int, ...], tuple[int, ...], str | paddings.Pairs, int]


def _configuration(
    ndim: int, stride: Any, dilation: Any, padding: Any, groups: Any, transposed: bool
) -> _Configuration:
    """The checked stride, dilation, padding and groups. Raises ValueError, and TypeError for traced ones."""
    stride = arguments.per_dimension("stride", _concrete("stride", stride), ndim, 1)
    dilation = arguments.per_dimension("dilation", _concrete("dilation", dilation), ndim, 1)
    padding = arguments.padding(_concrete("padding", padding), ndim)
    if transposed and isinstance(padding, str):
        raise ValueError(
            f"padding of a transposed convolution must be an int or (before, after) pairs; got {padding!r}"
        )
    return stride, dilation, padding, arguments.count("groups", _concrete("groups", groups), 1)


def _concrete(name: str, value: Any) -> Any:
    """The Python numbers of a configuration value: a leaf, which a tree_map may have made an array."""

    def number(leaf: Any) -> Any:
        if isinstance(leaf, jax.core.Tracer):
            raise TypeError(
                f"{name} is traced: the configuration of an inox layer is part of its leaves, so that a layer may not cross "
                f"jax.jit or jax.vmap as it is. Use inox.jit or inox.vmap, or pass its arrays only: static, params, others = "
                f"model.partition(inox.nn.Parameter), then static(params, others) inside"
            )
        return leaf.tolist() if isinstance(leaf, np.ndarray | np.generic | jax.Array) else leaf

    return jax.tree.map(number, value)

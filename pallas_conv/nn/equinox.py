"""`equinox.nn.Conv*` and `ConvTranspose*` over this package's primitives.

Subclasses of the equinox layers (https://docs.kidger.site/equinox/api/nn/conv/): same constructor arguments in the same order,
bit-identical parameters for the same key, same leaves, same results; and three keyword-only, static extras, `EXTRAS` below. A
call takes a `residual` too, which is added before the activation.
"""

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .. import arguments, functional
from .. import padding as paddings
from ..activations import ACTIVATIONS
from ..dispatch.implementation import Implementation, preferences
from ..functional import Ints, Padding

EXTRAS = ("implementation", "activation", "compute_dtype")  # static fields that equinox's layers lack
_EXTRAS_DOC = """
**And, keyword-only and static:**

- `activation`: applied to the result, fused. None, `"relu"`, `"leaky_relu"` (slope 0.01), `"gelu"` (exact), `"gelu_tanh"`,
    `"silu"`, `"tanh"` or `"sigmoid"`.
- `compute_dtype`: what input and weight are cast to and multiplied in, and the dtype of the result; sums are at least
    float32; parameters and their gradients keep their own dtype. None: input and weight must agree.
- `implementation`: a name or a tuple of names, see `pallas_conv.implementation`. None follows that context.

**Raises:** `ValueError` for values that do not fit, `TypeError` for arguments that the layer does not have,
`NotImplementedError` for a `padding_mode` that transposed convolutions do not have.
"""


def _constructor(stock: Any) -> Callable[..., None]:
    """The constructor of an equinox layer, with the extras, which are kept as static fields."""

    def __init__(
        self: Any,
        *args: Any,
        implementation: Implementation | None = None,
        activation: str | None = None,
        compute_dtype: Any = None,
        **kwargs: Any,
    ) -> None:
        self.implementation = None if implementation is None else preferences(implementation)
        self.activation = arguments.activation(activation)
        self.compute_dtype = arguments.dtype("compute_dtype", compute_dtype)
        _check_arguments(stock, args, kwargs)
        stock.__init__(self, *args, **kwargs)

    own, ours = inspect.signature(stock.__init__), inspect.signature(__init__).parameters
    extras = [ours[name] for name in EXTRAS]
    __init__.__signature__ = own.replace(parameters=[*own.parameters.values(), *extras])  # type: ignore[attr-defined]
    __init__.__doc__ = _documentation(stock)
    return __init__


def _documentation(stock: Any) -> str:
    """Equinox's of its layer for any number of dimensions, to which those for one, two or three only point; and the extras."""
    general = eqx.nn.ConvTranspose if issubclass(stock, eqx.nn.ConvTranspose) else eqx.nn.Conv
    arguments_ = inspect.cleandoc(general.__init__.__doc__ or "")
    if stock is not general:
        arguments_ = re.sub(r"- `num_spatial_dims`.*\n(?: +.*\n)*", "", arguments_)
    return f"{arguments_}\n{_EXTRAS_DOC}"


class _Layer:
    """The part that the eight layers share beyond equinox. A plain class: one of equinox's would reorder the fields."""

    def __call__(self: Any, x: Array, *, key: Array | None = None, residual: Array | None = None) -> Array:
        """**Arguments:**

        - `x`: the input, of shape `(in_channels, dim_1, ..., dim_N)` and the dtype of the weight (any, with `compute_dtype`).
        - `key`: ignored; for compatibility with the rest of equinox.
        - `residual`: an array of the shape and dtype of the result, added before the activation, fused; or None.

        **Returns:** an array of shape `(out_channels, new_dim_1, ..., new_dim_N)`.

        **Raises:** `ValueError` for an input or a residual of another shape, `TypeError` for one of another dtype or that is
        no array, `UnsupportedError` where a strict `implementation` does not serve a product.
        """
        del key
        with jax.named_scope(f"pallas_conv.{type(self).__name__}"):
            return _call(self, x, residual)


def _call(layer: Any, x: Array, residual: Array | None) -> Array:
    ndim = layer.num_spatial_dims
    x = arguments.array("x", x)
    if x.ndim != ndim + 1:
        raise ValueError(
            f"Input to `{type(layer).__name__}` needs to have rank {ndim + 1}: (channels, {ndim} spatial dimensions), "
            f"without a batch (use jax.vmap), but input has shape {x.shape}."
        )
    weight = arguments.array("weight", layer.weight)
    if weight.ndim != ndim + 2:
        raise ValueError(
            f"The weight of `{type(layer).__name__}` needs to have rank {ndim + 2}, but has shape {weight.shape}. Call "
            f"an ensemble of layers under equinox.filter_vmap."
        )
    transposed = isinstance(layer, eqx.nn.ConvTranspose)
    geometry = _transposed_geometry if transposed else _geometry
    x, pairs = geometry(layer, x)
    ones = (1,) * ndim
    bias, added = _bias(layer) if layer.use_bias else (None, None)
    activation = layer.activation if added is None else None
    op, out_dtype = functional.make_op(
        x,
        weight,
        bias,
        strides=ones if transposed else layer.stride,
        padding=pairs,
        input_dilation=layer.stride if transposed else ones,
        kernel_dilation=layer.dilation,
        groups=layer.groups,
        activation=activation,
        precision=None,
        compute_dtype=layer.compute_dtype,
        out_dtype=None,
        implementation=layer.implementation,
    )
    shape = (weight.shape[0], *op.spec.out_spatial)
    if added is not None:  # not fused, but as in equinox
        added = _broadcast_bias(added, shape, layer)
        added = added.astype(layer.compute_dtype or added.dtype)
        y = functional.apply(x, weight, None, None, op, out_dtype) + added
        y = y if residual is None else y + arguments.residual(residual, shape, y.dtype)
        return y if layer.activation is None else ACTIVATIONS[layer.activation].f(y)
    if residual is not None:
        residual = arguments.residual(residual, shape, out_dtype)
    return functional.apply(x, weight, bias, residual, op, out_dtype)


def _bias(layer: Any) -> tuple[Array | None, Array | None]:
    """(O,), also from a bias that was replaced by one number; or a bias of another shape, which varies over positions."""
    ones = (1,) * layer.num_spatial_dims
    shape = (layer.weight.shape[0], *ones)
    if layer.bias is None:
        raise ValueError(f"The bias of `{type(layer).__name__}` needs to have shape {shape}, but is None.")
    if np.shape(layer.bias) not in (shape, (1, *ones), ()):
        return None, jnp.asarray(layer.bias)
    return jnp.broadcast_to(layer.bias, shape).reshape(-1), None


def _broadcast_bias(bias: Array, shape: tuple[int, ...], layer: Any) -> Array:
    try:
        return jnp.broadcast_to(bias, shape)
    except ValueError:
        raise ValueError(
            f"The bias of `{type(layer).__name__}` needs to have shape {(shape[0], *[1] * (len(shape) - 1))}, or one that "
            f"broadcasts to the result's, {shape}, but is of shape {bias.shape}."
        ) from None


def _geometry(layer: Any, x: Array) -> tuple[Array, paddings.Pairs]:
    zeros = layer.padding_mode == "ZEROS"
    kernel = layer.weight.shape[2:] if zeros else layer.kernel_size  # as equinox does, if the weight was replaced
    padding = arguments.padding(layer.padding, layer.num_spatial_dims)
    pairs = paddings.conv_pairs(padding, x.shape[1:], kernel, layer.stride, layer.dilation)
    if zeros:
        return x, pairs
    arguments.padded_by_mode(x.shape[1:], pairs, layer.padding_mode)
    return paddings.pad(x, pairs, layer.padding_mode), ((0, 0),) * len(pairs)


def _transposed_geometry(layer: Any, x: Array) -> tuple[Array, paddings.Pairs]:
    padding = arguments.padding(layer.padding, layer.num_spatial_dims)
    pairs = paddings.transposed_pairs(padding, layer.kernel_size, layer.stride, layer.dilation, layer.output_padding)
    return paddings.wrap_transposed(x, pairs, layer.stride) if layer.padding_mode == "CIRCULAR" else (x, pairs)


def _check_arguments(stock: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise where equinox would, and where it leaves that to a ZeroDivisionError or the compiler. Name argument and value."""
    try:
        bound = inspect.signature(stock).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{stock.__name__}: {error}") from None
    bound.apply_defaults()
    given = bound.arguments
    ndim = given["num_spatial_dims"] if "num_spatial_dims" in given else int(stock.__name__[-2])
    for name, number, minimum in (
        ("num_spatial_dims", ndim, 0),
        ("in_channels", given["in_channels"], 1),
        ("out_channels", given["out_channels"], 0),
        ("groups", given["groups"], 1),
    ):
        arguments.count(name, number, minimum)
    for name in ("kernel_size", "stride", "dilation"):
        arguments.per_dimension(name, given[name], ndim, 1)
    padding = arguments.padding(given["padding"], ndim, ("SAME", "SAME_LOWER", "VALID"))
    transposed = "output_padding" in given
    mode = arguments.padding_mode(given["padding_mode"], transposed)
    if transposed:
        stride = arguments.per_dimension("stride", given["stride"], ndim, 1)
        output_padding = arguments.output_padding(given["output_padding"], stride)
        if mode == "CIRCULAR":
            arguments.circular_transpose(padding, output_padding)
    for name in ("in_channels", "out_channels"):
        if given[name] % given["groups"]:
            raise ValueError(f"{name} (={given[name]}) must be divisible by groups (={given['groups']})")


class Conv(_Layer, eqx.nn.Conv):
    """`equinox.nn.Conv`, with `implementation`, `activation` and `compute_dtype`.

    `weight`: `(out_channels, in_channels // groups, *kernel_size)`; `bias`: `(out_channels, 1, ..., 1)` or None; both of
    `dtype`. As in deep learning, the kernel is not flipped: a cross-correlation.
    """

    if TYPE_CHECKING:

        def __init__(
            self, num_spatial_dims: int, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1,
            padding: Padding = 0, dilation: Ints = 1, groups: int = 1, use_bias: bool = True, padding_mode: str = "ZEROS",
            dtype: Any = None, *, key: Array, implementation: Implementation | None = None, activation: str | None = None,
            compute_dtype: Any = None,
        ) -> None: ...  # fmt: skip
    else:
        __init__ = _constructor(eqx.nn.Conv)

    implementation: Implementation | None = eqx.field(static=True)
    activation: str | None = eqx.field(static=True)
    compute_dtype: Any = eqx.field(static=True)


class Conv1d(Conv, eqx.nn.Conv1d):
    """`equinox.nn.Conv1d`, with `implementation`, `activation` and `compute_dtype`: see `Conv`."""

    if TYPE_CHECKING:

        def __init__(
            self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1, padding: Padding = 0,
            dilation: Ints = 1, groups: int = 1, use_bias: bool = True, padding_mode: str = "ZEROS", dtype: Any = None, *,
            key: Array, implementation: Implementation | None = None, activation: str | None = None,
            compute_dtype: Any = None,
        ) -> None: ...  # fmt: skip
    else:
        __init__ = _constructor(eqx.nn.Conv1d)


class Conv2d(Conv, eqx.nn.Conv2d):
    """`equinox.nn.Conv2d`, with `implementation`, `activation` and `compute_dtype`: see `Conv`."""

    if TYPE_CHECKING:

        def __init__(
            self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1, padding: Padding = 0,
            dilation: Ints = 1, groups: int = 1, use_bias: bool = True, padding_mode: str = "ZEROS", dtype: Any = None, *,
            key: Array, implementation: Implementation | None = None, activation: str | None = None,
            compute_dtype: Any = None,
        ) -> None: ...  # fmt: skip
    else:
        __init__ = _constructor(eqx.nn.Conv2d)


class Conv3d(Conv, eqx.nn.Conv3d):
    """`equinox.nn.Conv3d`, with `implementation`, `activation` and `compute_dtype`: see `Conv`."""

    if TYPE_CHECKING:

        def __init__(
            self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1, padding: Padding = 0,
            dilation: Ints = 1, groups: int = 1, use_bias: bool = True, padding_mode: str = "ZEROS", dtype: Any = None, *,
            key: Array, implementation: Implementation | None = None, activation: str | None = None,
            compute_dtype: Any = None,
        ) -> None: ...  # fmt: skip
    else:
        __init__ = _constructor(eqx.nn.Conv3d)


class ConvTranspose(_Layer, eqx.nn.ConvTranspose):
    """`equinox.nn.ConvTranspose`, with `implementation`, `activation` and `compute_dtype`.

    `weight`: `(out_channels, in_channels // groups, *kernel_size)`; `bias`: `(out_channels, 1, ..., 1)` or None; both of
    `dtype`. As in deep learning, the kernel is not flipped: a cross-correlation.
    """

    if TYPE_CHECKING:

        def __init__(
            self, num_spatial_dims: int, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1,
            padding: Padding = 0, output_padding: Ints = 0, dilation: Ints = 1, groups: int = 1, use_bias: bool = True,
            padding_mode: str = "ZEROS", dtype: Any = None, *, key: Array, implementation: Implementation | None = None,
            activation: str | None = None, compute_dtype: Any = None,
        ) -> None: ...  # fmt: skip
    else:
        __init__ = _constructor(eqx.nn.ConvTranspose)

    implementation: Implementation | None = eqx.field(static=True)
    activation: str | None = eqx.field(static=True)
    compute_dtype: Any = eqx.field(static=True)


class ConvTranspose1d(ConvTranspose, eqx.nn.ConvTranspose1d):
    """`equinox.nn.ConvTranspose1d`, with `implementation`, `activation` and `compute_dtype`: see `ConvTranspose`."""

    if TYPE_CHECKING:

        def __init__(
            self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1, output_padding: Ints = 0,
            padding: Padding = 0, dilation: Ints = 1, groups: int = 1, use_bias: bool = True,
            padding_mode: str = "ZEROS", dtype: Any = None, *, key: Array, implementation: Implementation | None = None,
            activation: str | None = None, compute_dtype: Any = None,
        ) -> None: ...  # fmt: skip
    else:
        __init__ = _constructor(eqx.nn.ConvTranspose1d)


class ConvTranspose2d(ConvTranspose, eqx.nn.ConvTranspose2d):
    """`equinox.nn.ConvTranspose2d`, with `implementation`, `activation` and `compute_dtype`: see `ConvTranspose`."""

    if TYPE_CHECKING:

        def __init__(
            self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1, output_padding: Ints = 0,
            padding: Padding = 0, dilation: Ints = 1, groups: int = 1, use_bias: bool = True,
            padding_mode: str = "ZEROS", dtype: Any = None, *, key: Array, implementation: Implementation | None = None,
            activation: str | None = None, compute_dtype: Any = None,
        ) -> None: ...  # fmt: skip
    else:
        __init__ = _constructor(eqx.nn.ConvTranspose2d)


class ConvTranspose3d(ConvTranspose, eqx.nn.ConvTranspose3d):
    """`equinox.nn.ConvTranspose3d`, with `implementation`, `activation` and `compute_dtype`: see `ConvTranspose`."""

    if TYPE_CHECKING:

        def __init__(
            self, in_channels: int, out_channels: int, kernel_size: Ints, stride: Ints = 1, output_padding: Ints = 0,
            padding: Padding = 0, dilation: Ints = 1, groups: int = 1, use_bias: bool = True,
            padding_mode: str = "ZEROS", dtype: Any = None, *, key: Array, implementation: Implementation | None = None,
            activation: str | None = None, compute_dtype: Any = None,
        ) -> None: ...  # fmt: skip
    else:
        __init__ = _constructor(eqx.nn.ConvTranspose3d)


# Stock class -> ours, for `convert`.
LAYERS: dict[type, type] = {
    eqx.nn.Conv: Conv,
    eqx.nn.Conv1d: Conv1d,
    eqx.nn.Conv2d: Conv2d,
    eqx.nn.Conv3d: Conv3d,
    eqx.nn.ConvTranspose: ConvTranspose,
    eqx.nn.ConvTranspose1d: ConvTranspose1d,
    eqx.nn.ConvTranspose2d: ConvTranspose2d,
    eqx.nn.ConvTranspose3d: ConvTranspose3d,
}

"""Checks of what callers pass, before any tracing error: each names the argument, its value and the fix."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .activations import ACTIVATIONS
from .padding import MODES, STRINGS, Pairs

LAYOUTS = ("channels_first", "channels_last")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def count(name: str, value: Any, minimum: int) -> int:
    """A count, as one int. Raises ValueError."""
    if not _is_integer(value) or value < minimum:
        raise ValueError(f"{name} must be an int of at least {minimum}; got {value!r}")
    return int(value)


def per_dimension(name: str, value: Any, ndim: int, minimum: int) -> tuple[int, ...]:
    """An int for every spatial dimension, or one for each. Raises ValueError."""
    values = (value,) * ndim if _is_integer(value) else value
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(map(_is_integer, values)):
        raise ValueError(f"{name} must be an int or a sequence of {ndim} ints, one a spatial dimension; got {value!r}")
    if len(values) != ndim:
        raise ValueError(
            f"{name} must have one entry a spatial dimension, {ndim}; got {value!r}, which has {len(values)}"
        )
    if any(v < minimum for v in values):
        raise ValueError(f"{name} must be at least {minimum} in every dimension; got {value!r}")
    return tuple(int(v) for v in values)


def residual(value: Any, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """An array like the result that it is added to. Raises TypeError, ValueError."""
    r = array("residual", value)
    if r.shape != shape:
        raise ValueError(f"residual must have the shape of the result, {shape}; got {r.shape}")
    if r.dtype != dtype:
        raise TypeError(f"residual must have the dtype of the result, {dtype}; got {r.dtype}. Cast it")
    return r


def padding(value: Any, ndim: int, strings: Sequence[str] = STRINGS) -> str | Pairs:
    """A string (upper-cased) or a pair of ints (negative: a crop) for every spatial dimension. Raises ValueError."""
    if isinstance(value, str):
        if value.upper() not in strings:
            raise ValueError(f"padding must be one of {', '.join(map(repr, strings))}, or ints; got {value!r}")
        return value.upper()
    if _is_integer(value):
        return ((int(value), int(value)),) * ndim
    if isinstance(value, Sequence) and len(value) == ndim:
        pairs = [(p, p) for p in value] if all(map(_is_integer, value)) else value
        if all(isinstance(p, Sequence) and len(p) == 2 and all(map(_is_integer, p)) for p in pairs):
            return tuple((int(low), int(high)) for low, high in pairs)
    raise ValueError(
        f"padding must be a string, an int, or a sequence of {ndim} ints or of {ndim} (before, after) pairs, one a spatial "
        f"dimension; got {value!r}"
    )


def padding_mode(value: Any, transposed: bool) -> str:
    """Raises ValueError for an unknown mode, NotImplementedError for one that transposed convolutions do not have."""
    if not isinstance(value, str) or value.upper() not in MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(map(repr, MODES))}; got {value!r}")
    if transposed and value.upper() in ("REFLECT", "REPLICATE"):
        raise NotImplementedError(
            f"padding_mode {value!r} is not implemented for transposed convolutions; use 'ZEROS' or 'CIRCULAR'"
        )
    return value.upper()


def padded_by_mode(size: Sequence[int], pairs: Pairs, mode: str) -> None:
    """Raises ValueError for what REFLECT, REPLICATE and CIRCULAR cannot do: crop, or pad an axis that has no elements."""
    if any(p < 0 for pair in pairs for p in pair):
        raise ValueError(
            f"padding must not be negative with padding_mode {mode!r} (with 'ZEROS' it crops); got {pairs}"
        )
    if any(n == 0 and any(pair) for n, pair in zip(size, pairs, strict=True)):
        raise ValueError(
            f"padding_mode {mode!r} cannot pad an empty axis: x has spatial shape {tuple(size)}, padding {pairs}; 'ZEROS' can"
        )


def activation(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in ACTIVATIONS):
        raise ValueError(f"activation must be None or one of {', '.join(map(repr, ACTIVATIONS))}; got {value!r}")
    return value


def activated(name: str | None, dtype_: np.dtype) -> None:
    """Raises TypeError for an activation that has no values in the dtype of the result."""
    fits = jnp.issubdtype(dtype_, jnp.floating) or name in (None, "relu")
    if not (fits or (jnp.issubdtype(dtype_, jnp.complexfloating) and name not in ("gelu", "leaky_relu"))):
        raise TypeError(f"activation {name!r} needs a floating-point result; got {dtype_.name}. Cast the operands")


def layout(value: Any) -> str:
    if not isinstance(value, str) or value not in LAYOUTS:
        raise ValueError(f"layout must be 'channels_first' or 'channels_last'; got {value!r}")
    return value


def dtype(name: str, value: Any) -> np.dtype | None:
    """A floating-point or complex dtype, or None. Raises ValueError."""
    if value is None:
        return None
    try:
        found = jnp.dtype(value)
    except TypeError:
        raise ValueError(f"{name} must be a dtype such as jnp.bfloat16, or None; got {value!r}") from None
    if not jnp.issubdtype(found, jnp.inexact):
        raise ValueError(f"{name} must be a floating-point or complex dtype; got {found.name}")
    held = jax.dtypes.canonicalize_dtype(found)
    if held != found:
        warnings.warn(
            f"{name} {found.name} is truncated to {held.name}: for 64 bits, set jax_enable_x64",
            UserWarning,
            stacklevel=3,
        )
    return held


def precision(value: Any) -> Any:
    """The precision in a form that lax.conv_general_dilated takes.

    None is the configured `jax_default_matmul_precision`. Raises ValueError.
    """
    if value is None:
        return jax.config.jax_default_matmul_precision
    one = (
        value if not isinstance(value, tuple | list) else value[0] if len(value) == 2 and value[0] == value[1] else ...
    )
    if isinstance(one, lax.Precision):
        return one
    names = ("default", "high", "highest", "fastest", "bfloat16", "bfloat16_3x", "tensorfloat32", "float32")
    if not isinstance(one, str) or one.lower() not in names:
        raise ValueError(
            f"precision must be None, a jax.lax.Precision, or one of {', '.join(map(repr, names))}, the same for both; "
            f"got {value!r}"
        )
    return one.lower()


def array(name: str, value: Any) -> Array:
    """A JAX array of what is an array already. Raises TypeError for anything else."""
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__jax_array__"):
        return jnp.asarray(value)
    raise TypeError(
        f"{name} must be a JAX or NumPy array; got {type(value).__name__}: {value!r:.80}. Convert it by jnp.asarray"
    )


def operand_dtypes(x: Array, w: Array, compute_dtype: Any) -> None:
    """Raises TypeError, as lax does, where x and w differ and nobody said what to compute in."""
    if compute_dtype is None and x.dtype != w.dtype:
        raise TypeError(
            f"x and the weight must have the same dtype; got x: {x.dtype.name}, weight: {w.dtype.name}. Cast one of them, or "
            f"pass compute_dtype"
        )


def real_or_complex(given: Sequence[Any], **asked: Any) -> None:
    """Raises ValueError where a dtype that was asked for is real and the operands are complex, or the other way round."""
    for name, dtype_ in asked.items():
        if dtype_ is not None and any(
            jnp.issubdtype(g, jnp.complexfloating) != jnp.issubdtype(dtype_, jnp.complexfloating) for g in given
        ):
            raise ValueError(
                f"{name} must be complex if and only if the operands are; got {name}: {jnp.dtype(dtype_).name}, operands: "
                f"{', '.join(jnp.dtype(g).name for g in given)}. Cast the operands, or take their real part, first"
            )


def extents(kernel: Sequence[int], dilated_input: Sequence[int], padding_: Pairs) -> None:
    """Raises ValueError for a kernel without elements, and for padding that crops more than there is."""
    if 0 in kernel:
        raise ValueError(
            f"the weight must have at least one element in every spatial dimension; its kernel is {tuple(kernel)}"
        )
    if any(n + low + high < 0 for n, (low, high) in zip(dilated_input, padding_, strict=True)):
        raise ValueError(
            f"padding must not crop more than there is: {padding_} of {tuple(dilated_input)} (of a transposed convolution: its "
            f"input after dilation by the stride)"
        )


def channels(x_channels: int, out_channels: int, in_channels_of_group: int, groups: int) -> None:
    """Raises ValueError where the channels of x, w and groups do not fit."""
    if x_channels != in_channels_of_group * groups:
        raise ValueError(
            f"x has {x_channels} channels, but the weight takes {in_channels_of_group} for each of {groups} groups: "
            f"{in_channels_of_group * groups} in all"
        )
    if out_channels % groups:
        raise ValueError(f"out_channels (={out_channels}) must be divisible by groups (={groups})")


def output_padding(value: Any, stride: Sequence[int]) -> tuple[int, ...]:
    """Raises ValueError unless it is less than the stride everywhere."""
    values = per_dimension("output_padding", value, len(stride), 0)
    if any(a >= s for a, s in zip(values, stride, strict=True)):
        raise ValueError(
            f"output_padding must be less than stride in every dimension; got {value!r} with stride {tuple(stride)}"
        )
    return values


def circular_transpose(padding_: str | Pairs, output_padding_: Sequence[int]) -> None:
    """Raises NotImplementedError for what CIRCULAR does not define, as equinox does."""
    if any(output_padding_):
        raise NotImplementedError(f"padding_mode 'CIRCULAR' needs output_padding=0; got {tuple(output_padding_)}")
    if padding_ not in ("SAME", "SAME_LOWER"):
        raise NotImplementedError(
            f"padding_mode 'CIRCULAR' of a transposed convolution needs padding 'SAME' or 'SAME_LOWER'; got {padding_!r}"
        )

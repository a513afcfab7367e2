"""The convolutions of `jax.lax` over this package's primitives: one door for Flax, Haiku, Keras and code of one's own.

`conv_general_dilated`, `conv_general_dilated_local`, `conv`, `conv_with_general_padding` and `conv_transpose` have the
signatures of `jax.lax` (https://docs.jax.dev/en/latest/jax.lax.html#convolution-operators), its results, its errors, and every
transformation of JAX. Which implementation runs follows the context `pallas_conv.implementation`.

What the primitives do not serve is `jax.lax`'s own: integers, `batch_group_count`, a `preferred_element_type` other than the
operands' dtype, an `out_sharding`, and convolutions with no spatial axis.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal
from jax.extend.core.primitives import conv_general_dilated_p

from . import functional
from .spec import dilated
from .trilinear import Op

__all__ = [
    "conv",
    "conv_general_dilated",
    "conv_general_dilated_local",
    "conv_transpose",
    "conv_with_general_padding",
    "patched",
]

_STOCK: dict[str, Callable[..., Array]] = {name: getattr(jax.lax, name) for name in __all__ if name != "patched"}

# ---------------------------------------------------------------- a convolution


def _convolve(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """By the primitives; by lax where they do not serve it, and where lax is to say what is wrong."""
    ours = None
    if batch_group_count == 1 and out_sharding is None and _of_one_dtype(lhs, rhs, preferred_element_type):
        ours = _channels_first(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, precision
        )  # fmt: skip
    if ours is None:
        return _STOCK["conv_general_dilated"](
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
            batch_group_count, precision, preferred_element_type, out_sharding,
        )  # fmt: skip
    x, w, op, axes = ours
    return functional.apply(x, w, None, None, op, x.dtype).transpose(np.argsort(axes))


def _of_one_dtype(lhs: Array, rhs: Array, preferred_element_type: Any) -> bool:
    """Whether the operands are of one inexact dtype, and the result is, too."""
    preferred = lhs.dtype if preferred_element_type is None else preferred_element_type
    weak = jax.typeof(lhs).weak_type and jax.typeof(rhs).weak_type  # then lax's result is
    alike = lhs.dtype == rhs.dtype == jax.dtypes.canonicalize_dtype(preferred)
    return alike and jnp.issubdtype(lhs.dtype, jnp.inexact) and not weak


def _channels_first(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    dimension_numbers: Any,
    feature_group_count: int,
    precision: Any,
) -> tuple[Array, Array, Op, Sequence[int]] | None:
    """x, w, the static part, and which axes of lax's result ours are; None if something does not fit."""
    ones = (1,) * (lhs.ndim - 2)
    lhs_dilation, rhs_dilation = lhs_dilation or ones, rhs_dilation or ones
    if lhs.ndim < 3 or (isinstance(padding, str) and max(lhs_dilation) > 1):
        return None
    try:
        dims = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        x, w = lhs.transpose(dims.lhs_spec), rhs.transpose(dims.rhs_spec)
        if isinstance(padding, str):
            window = [dilated(k, d) for k, d in zip(w.shape[2:], rhs_dilation, strict=True)]
            padding = jax.lax.padtype_to_pads(x.shape[2:], window, window_strides, padding)
        op, _ = functional.make_op(
            x, w, None, strides=window_strides, padding=tuple((index(low), index(high)) for low, high in padding),
            input_dilation=lhs_dilation, kernel_dilation=rhs_dilation, groups=feature_group_count, activation=None,
            precision=precision, compute_dtype=None, out_dtype=None, implementation=None,
        )  # fmt: skip
    except (TypeError, ValueError):
        return None
    return x, w, op, dims.out_spec


# ---------------------------------------------------------------- the functions


def _as_lax_writes_it(name: str) -> Callable[..., Array]:
    """lax's own function of this name, with each convolution in it replaced by ours."""

    def function(lhs: Array, rhs: Array, *args: Any, **kwargs: Any) -> Array:
        return _evaluate(jax.make_jaxpr(lambda lhs, rhs: _STOCK[name](lhs, rhs, *args, **kwargs))(lhs, rhs), lhs, rhs)

    return function


def _evaluate(program: ClosedJaxpr, *args: Array) -> Array:
    values = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    values |= dict(zip(program.jaxpr.invars, args, strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else values[v]
    for eqn in program.jaxpr.eqns:
        operands = map(read, eqn.invars)
        if eqn.primitive is conv_general_dilated_p:
            results = [_convolve(*operands, **eqn.params)]
        else:
            result = eqn.primitive.bind(*operands, **eqn.params)
            results = result if eqn.primitive.multiple_results else [result]
        values |= dict(zip(eqn.outvars, results, strict=True))
    (y,) = program.jaxpr.outvars
    return read(y)


_PROGRAMS = {name: _convolve if name == "conv_general_dilated" else _as_lax_writes_it(name) for name in _STOCK}


# Inlined where it is traced; outside of jit it makes one program of the transpositions and the convolution, compiled once.
@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _call(name: str, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...], lhs: Array, rhs: Array) -> Array:
    return _PROGRAMS[name](lhs, rhs, *args, **dict(kwargs))


def _door(name: str) -> Callable[..., Array]:
    signature = inspect.signature(_STOCK[name])

    @functools.wraps(_STOCK[name])
    def function(lhs: Array, rhs: Array, *args: Any, **kwargs: Any) -> Array:
        if not (_binds(signature, args, kwargs) and all(isinstance(t, jax.Array | np.ndarray) for t in (lhs, rhs))):
            return _STOCK[name](lhs, rhs, *args, **kwargs)  # which says so
        return _call(name, _hashable(args), tuple((k, _hashable(v)) for k, v in kwargs.items()), lhs, rhs)

    return function


def _binds(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(None, None, *args, **kwargs)
    except TypeError:
        return False
    return True


def _hashable(value: Any) -> Any:
    """Sequences as tuples; what has fields, such as lax's dimension numbers, stays what it is."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_hashable, value)) if type(value) in (list, tuple) else value


conv = _door("conv")
conv_general_dilated = _door("conv_general_dilated")
conv_general_dilated_local = _door("conv_general_dilated_local")
conv_transpose = _door("conv_transpose")
conv_with_general_padding = _door("conv_with_general_padding")


# ---------------------------------------------------------------- patching


# Part of every cache key of JAX: what was traced outside is traced anew inside, and the other way round.
_context = jax.make_user_context(False)
_inside = 0
_lock = threading.Lock()


class patched(contextlib.ContextDecorator):  # a function, to its users
    """Context manager, or decorator: functions that are traced inside find ours under these names in `jax.lax`.

    For code that calls `jax.lax` itself and takes no function for it, as Haiku's layers do:

        with pallas_conv.lax.patched():
            loss, grads = step(params, batch)

    Gradients included; functions under `jax.jit` are traced anew, inside and outside. Undone on exit, also by an exception.
    It does not reach names that were imported before (`from jax.lax import conv`), nor what JAX itself convolves with, such as
    `jax.numpy.convolve` and `jax.lax.conv_general_dilated_patches`. While one thread is inside, others find our functions, too;
    their results are the same.
    """

    def __init__(self) -> None:
        self._entered: list[contextlib.AbstractContextManager] = []

    def __enter__(self) -> None:
        global _inside
        context = _context(True)
        context.__enter__()
        self._entered.append(context)
        with _lock:
            _inside += 1
            for name in _STOCK:
                setattr(jax.lax, name, globals()[name])

    def __exit__(self, *error: Any) -> None:
        global _inside
        with _lock:
            _inside -= 1
            for name, stock in _STOCK.items() if not _inside else ():
                setattr(jax.lax, name, stock)
        self._entered.pop().__exit__(*error)

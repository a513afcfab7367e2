"""The convolutions of `jax.lax` over this package's primitives: one door for Flax, Haiku and whatever calls `jax.lax`.

`conv_general_dilated`, `conv_general_dilated_local`, `conv`, `conv_with_general_padding` and `conv_transpose` have the
signatures of `jax.lax` (https://docs.jax.dev/en/latest/jax.lax.html#convolution-operators), its results, its errors, and every
transformation of JAX. Which implementation runs follows the context `pallas_conv.implementation`.

Some calls are `jax.lax`'s own, also where the implementation is strict: those under the implementation `"xla"` alone; of
integers, of weakly typed operands, without a spatial axis, with `batch_group_count`, `out_sharding`, two precisions that
differ, or a `preferred_element_type` other than the operands' dtype; and those whose arguments do not fit, for lax to say so.

Under `jax.checkpoint`, `pallas_conv.dots_saveable` stands in for JAX's policy of that name, which knows JAX's primitives only.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Literal
from jax.extend.core.primitives import conv_general_dilated_p
from jax.lax import ConvDimensionNumbers

from . import functional
from .dispatch.implementation import preferences
from .equation import Op
from .spec import dilated

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
    """lax.conv_general_dilated, by the primitives where they serve it."""
    ours = None
    alike = _of_one_dtype(lhs, rhs, preferred_element_type)
    if alike and batch_group_count == 1 and out_sharding is None and preferences(None) != ("xla",):
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
    weak = jax.typeof(lhs).weak_type and jax.typeof(rhs).weak_type  # lax's result is weak then, ours never
    preferred = preferred_element_type is None or jnp.dtype(preferred_element_type) == lhs.dtype
    return lhs.dtype == rhs.dtype and preferred and jnp.issubdtype(lhs.dtype, jnp.inexact) and not weak


def _channels_first(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    dimension_numbers: Any,
    groups: int,
    precision: Any,
) -> tuple[Array, Array, Op, Sequence[int]] | None:
    """x, w, the static part, and which axes of lax's result ours are; None if something does not fit."""
    n = lhs.ndim - 2
    lhs_dilation = (1,) * n if lhs_dilation is None else lhs_dilation
    rhs_dilation = (1,) * n if rhs_dilation is None else rhs_dilation
    if (
        n < 1
        or not all(_are_counts(v, n) for v in (strides, lhs_dilation, rhs_dilation))
        or not _are_counts((groups,), 1)
    ):
        return None
    precisions = precision if isinstance(precision, tuple | list) else (precision,)
    if any(isinstance(p, str) and p != p.lower() for p in precisions):  # ours would take it
        return None
    try:
        dims = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    except TypeError:
        return None
    if any(sorted(axes) != list(range(n + 2)) for axes in dims):
        return None
    x, w = lhs.transpose(dims.lhs_spec), rhs.transpose(dims.rhs_spec)
    pairs = _pairs(padding, x.shape[2:], w.shape[2:], strides, lhs_dilation, rhs_dilation)
    if pairs is None:
        return None
    try:
        op, _ = functional.make_op(
            x, w, None, strides=strides, padding=pairs, input_dilation=lhs_dilation, kernel_dilation=rhs_dilation,
            groups=groups, activation=None, precision=precision, compute_dtype=None, out_dtype=None, implementation=None,
        )  # fmt: skip
    except ValueError:  # channels, extents or a precision that do not fit
        return None
    last = (0, n + 1, *range(1, n + 1))
    return x, w, op.replace(channels_last=dims.lhs_spec == dims.out_spec == last), dims.out_spec


def _are_ints(values: Any, n: int) -> bool:
    ints = isinstance(values, tuple | list) and all(isinstance(v, int | np.integer) for v in values)
    return ints and len(values) == n


def _are_counts(values: Any, n: int) -> bool:
    return _are_ints(values, n) and min(values) >= 1


def _pairs(
    padding: Any,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
) -> tuple[tuple[int, int], ...] | None:
    """The padding before and after, as lax takes it."""
    if isinstance(padding, str):
        if max(lhs_dilation) > 1 or padding.upper() not in ("SAME", "SAME_LOWER", "VALID"):
            return None
        window = [dilated(k, d) for k, d in zip(kernel, rhs_dilation, strict=True)]
        return tuple((low, high) for low, high in jax.lax.padtype_to_pads(size, window, strides, padding))
    if not isinstance(padding, tuple | list) or len(padding) != len(size):
        return None
    if not all(_are_ints(pair, 2) for pair in padding):
        return None
    return tuple((int(low), int(high)) for low, high in padding)


# ---------------------------------------------------------------- the functions


def _as_lax_writes_it(name: str) -> Callable[..., Array]:
    """Traces lax's own function of this name, and evaluates that program with our convolution."""

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


# Outside of jit the transpositions and the convolution are one program, compiled once. Inside it is inlined.
@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _call(name: str, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...], lhs: Array, rhs: Array) -> Array:
    return _PROGRAMS[name](lhs, rhs, *args, **dict(kwargs))


def _like_lax(name: str) -> Callable[..., Array]:
    """The function of this name, with lax's signature and documentation."""
    signature = inspect.signature(_STOCK[name])

    @functools.wraps(_STOCK[name])
    def function(lhs: Array, rhs: Array, *args: Any, **kwargs: Any) -> Array:
        arrays = all(isinstance(t, jax.Array | np.ndarray) and t.dtype != object for t in (lhs, rhs))
        plain = all(map(_is_plain, (*args, *kwargs.values())))
        if not (arrays and plain and _binds(signature, args, kwargs)):
            return _STOCK[name](lhs, rhs, *args, **kwargs)  # takes it, or says what is wrong
        return _call(name, _hashable(args), tuple((k, _hashable(v)) for k, v in sorted(kwargs.items())), lhs, rhs)

    function.__module__ = __name__  # where pickle finds it
    return function


def _binds(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        signature.bind(None, None, *args, **kwargs)
    except TypeError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    """Whether it is a setting that jit can keep, and that is equal to no setting that lax would treat otherwise."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    plain = (
        int
        | np.integer
        | str
        | np.dtype
        | type
        | jax.lax.Precision
        | jax.sharding.Sharding
        | jax.sharding.PartitionSpec
    )
    return value is None or isinstance(value, plain)


def _hashable(value: Any) -> Any:
    if isinstance(value, ConvDimensionNumbers):
        return ConvDimensionNumbers(*map(_hashable, value))
    return tuple(map(_hashable, value)) if isinstance(value, tuple | list) else value


conv = _like_lax("conv")
conv_general_dilated = _like_lax("conv_general_dilated")
conv_general_dilated_local = _like_lax("conv_general_dilated_local")
conv_transpose = _like_lax("conv_transpose")
conv_with_general_padding = _like_lax("conv_with_general_padding")


# ---------------------------------------------------------------- patching


# Part of every cache key of JAX: what was traced outside is traced anew inside, and the other way round.
_context = jax.make_user_context(False)
_of_thread = threading.local()
_lock = threading.Lock()
_entered = 0  # by all threads


class patched(contextlib.ContextDecorator):  # lower case, for it is used like a function
    """Context manager, or decorator: functions that are traced inside find ours under these names in `jax.lax`.

    For code that calls `jax.lax` itself and takes no function for it, as Haiku's layers do:

        with pallas_conv.lax.patched():
            loss, grads = step(params, batch)

    Gradients included; functions under `jax.jit` are traced anew, inside and outside. Undone on exit, also by an exception.

    It does not reach names that were imported before (`from jax.lax import conv`), nor what JAX itself convolves with, such as
    `jax.numpy.convolve` and `jax.lax.conv_general_dilated_patches`. As a decorator it does not reach into the body of a
    generator or an `async` function. While one thread is inside, others find our functions, too, and keep them in what they
    trace then.
    """

    def __enter__(self) -> None:
        global _entered
        with _lock:
            _entered += 1
            for name in _STOCK:
                setattr(jax.lax, name, globals()[name])
        _here(+1)

    def __exit__(self, *error: Any) -> None:
        global _entered
        _here(-1)
        with _lock:
            _entered -= 1
            for name, stock in _STOCK.items() if not _entered else ():
                setattr(jax.lax, name, stock)


def _here(change: int) -> None:
    """Counts how often this thread is inside, whatever the order in which it leaves: generators may leave in another."""
    inside = getattr(_of_thread, "inside", 0)
    _of_thread.inside = inside + change
    if not inside:
        _of_thread.context = _context(True)
        _of_thread.context.__enter__()
    elif not _of_thread.inside:
        _of_thread.context.__exit__(None, None, None)

"""convert_report: every convolution of a model, what `convert` does with it, and why."""

import collections
import contextlib
import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax.tree_util as jtu

from .classes import CONVERTED, LEFT_ALONE, PENDING, is_layer, name_of, outcome
from .convert import check_direction
from .lax_calls import LaxCall, lax_calls
from .pytrees import children

_JitWrapper: Any = type(eqx.filter_jit(len))


@dataclasses.dataclass(frozen=True)
class Row:
    """One convolution layer of a model, or something in it that calls a convolution of `jax.lax` itself.

    path      where it is, as `jax.tree_util.keystr` writes it; "" is the model itself
    layer     its class, or the name of the function
    status    "converted" (nothing to do), "would be converted", or "left alone"
    reason    why it is left alone, or what it would become
    """

    path: str
    layer: str
    status: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.path or '(the model)'}: {self.layer} {self.status}{self.reason and ': ' + self.reason}"


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """The convolution layers of a model and its own calls of `jax.lax`, in the order of its pytree; iterable and printable."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]

    def __str__(self) -> str:
        counts = collections.Counter(row.status for row in self.rows)
        summary = ", ".join(
            f"{counts[status]} {status}" for status in (CONVERTED, PENDING, LEFT_ALONE) if counts[status]
        )
        found = f"{len(self.rows)} convolution{'s' * (len(self.rows) != 1)}"
        return "\n".join([f"{found}: {summary}" if summary else found, *(f"  {row}" for row in self.rows)])


def convert_report(model: Any, to: str = "pallas_conv") -> ConversionReport:
    """Report what `pallas_conv.convert(model, to)` does, or did, with every convolution layer, and why.

    Also lists layers that it cannot reach: in static fields of modules, under `equinox.filter_jit`, and in functions
    (closures, defaults, bound methods, partials). Not seen are layers that a function takes from a global variable, or that
    a plain object holds.

    On the way to this package it lists, too, what calls the convolutions of `jax.lax` itself and so has to be changed by
    hand: modules, by their methods, and functions that the model holds, with the functions that they name of the same
    file. Not seen are calls through a variable or through another file, and names imported inside a function.

    **Arguments:**

    - `model`: any pytree, converted or not.
    - `to`: as in `pallas_conv.convert`.

    **Returns:** a `ConversionReport`: iterable over rows with `path`, `layer`, `status` and `reason`; printable. A layer that
    occurs twice has two rows.

    **Raises:** `ValueError` for another `to`.
    """
    check_direction(to)

    def rows(path: tuple, node: Any) -> Iterator[Row]:
        if is_layer(node):
            found = outcome(node, to)
            yield Row(jtu.keystr(path), name_of(type(node)), found.status, found.reason)
        if isinstance(node, eqx.Module):
            yield from calls(path, node)
        for key, holder, value in _outside_the_tree(node):
            for inner in _reached(value, set()):
                if is_layer(inner):
                    converted = outcome(inner, to).status == CONVERTED
                    unreachable = f"{holder} holds it, outside the pytree: convert it before it is put there"
                    how = (CONVERTED, "") if converted else (LEFT_ALONE, unreachable)
                    yield Row(jtu.keystr(path + key), name_of(type(inner)), *how)
                yield from calls(path + key, inner)
        for key, child in children(node)[0]:
            yield from rows(path + key, child)

    def calls(path: tuple, node: Any) -> Iterator[Row]:
        for call in _calls_of(node) if to == "pallas_conv" else ():
            caller = node if isinstance(node, types.FunctionType) else type(node)
            yield Row(jtu.keystr(path), name_of(caller), LEFT_ALONE, str(call))

    return ConversionReport(tuple(rows((), model)))


# ---------------------------------------------------------------- calls of jax.lax


def _calls_of(node: Any) -> Iterator[LaxCall]:
    """Calls by a function, or by the methods of a module, inherited ones included."""
    if isinstance(node, types.FunctionType):
        yield from lax_calls(node)
    if isinstance(node, eqx.Module):
        members = [member for base in type(node).__mro__ for member in vars(base).values() if _is_code(member)]
        functions = [inner for inner in _reached(members, set()) if isinstance(inner, types.FunctionType)]
        yield from dict.fromkeys(call for function in functions for call in lax_calls(function))


def _is_code(member: Any) -> bool:
    return callable(member) or isinstance(member, classmethod | property)


# ---------------------------------------------------------------- what a pytree does not show


def _outside_the_tree(node: Any) -> Iterator[tuple[tuple, str, Any]]:
    """(key, what holds it, value) of the values that JAX does not see in this node."""
    if isinstance(node, _JitWrapper):
        yield (), "equinox.filter_jit", node.__wrapped__
    elif isinstance(node, eqx.Module):
        for field in dataclasses.fields(node):
            if field.metadata.get("static", False):
                yield (jtu.GetAttrKey(field.name),), "a static field", vars(node).get(field.name)
    elif callable(node):
        yield (), "a function", node


def _reached(value: Any, seen: set[int]) -> Iterator[Any]:
    """The value and what it holds, down to layers."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if is_layer(value):
        return
    inner: list[Any] = []
    if isinstance(value, eqx.Module):
        inner = [*vars(value).values(), getattr(value, "__wrapped__", None)]
    elif isinstance(value, Mapping):
        inner = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    elif isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.MethodType):
        inner = [value.__self__, value.__func__]
    elif isinstance(value, property):
        inner = [value.fget]
    elif callable(value) or isinstance(value, classmethod):
        inner = [getattr(value, "__wrapped__", None)]  # of jax.jit, jax.vmap, functools.wraps
        if isinstance(value, types.FunctionType):
            inner += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # not assigned yet
                    inner.append(cell.cell_contents)
    for part in inner:
        yield from _reached(part, seen)

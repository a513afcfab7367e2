"""Finds the convolutions of `jax.lax` that a function calls by itself, read off its bytecode: nothing is run."""

import collections
import contextlib
import dataclasses
import dis
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from .. import lax

_NAMES = {id(getattr(jax.lax, name)): name for name in lax.__all__ if hasattr(jax.lax, name)}
_LIBRARIES = ("jax", "equinox", "pallas_conv")  # JAX's own convolutions are its own affair, the layers are known


@dataclasses.dataclass(frozen=True)
class LaxCall:
    """caller: the qualified name of the function; name: of the function of `jax.lax`; looked_up: whether it is looked up in
    `jax.lax` when it is called, where `pallas_conv.lax.patched` can replace it."""

    caller: str
    name: str
    looked_up: bool

    def __str__(self) -> str:
        patched = ", or trace it under pallas_conv.lax.patched()" if self.looked_up else ""
        return f"{self.caller} calls jax.lax.{self.name} itself: call pallas_conv.lax.{self.name}{patched}"


def lax_calls(function: types.FunctionType) -> Iterator[LaxCall]:
    """Calls by the function, by what is defined in it, and by functions of its module that it names; or the function itself.

    Names are followed through globals, closures and attributes of modules, as in `jax.lax.conv`; not through variables.
    """
    if id(function) in _NAMES:
        yield LaxCall("the model", _NAMES[id(function)], looked_up=False)
    yield from dict.fromkeys(_calls(function, set()))


def _calls(function: types.FunctionType, seen: set[int]) -> Iterator[LaxCall]:
    package = str(function.__globals__.get("__name__")).partition(".")[0]
    if id(function) in seen or package in _LIBRARIES:
        return
    seen.add(id(function))
    variables = collections.ChainMap(_closure(function), function.__globals__)
    for holder, value in _named(function.__code__, variables):
        if id(value) in _NAMES:
            yield LaxCall(function.__qualname__, _NAMES[id(value)], holder is jax.lax)
        elif callable(value):
            inner = getattr(value, "__wrapped__", value)  # under jax.jit
            if isinstance(inner, types.FunctionType) and inner.__globals__ is function.__globals__:
                yield from _calls(inner, seen)


def _closure(function: types.FunctionType) -> dict[str, Any]:
    contents = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            contents[name] = cell.cell_contents
    return contents


def _named(code: types.CodeType, variables: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(module or None, value) of each variable from outside, and of each attribute of a module, that the code reads."""
    value = None
    for step in dis.get_instructions(code):
        if step.opname == "EXTENDED_ARG":  # part of the next instruction
            continue
        attribute = step.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, types.ModuleType)
        holder = value if attribute else None
        if attribute:
            value = vars(value).get(step.argval)  # not getattr, for which a module may import or warn
        else:
            value = variables.get(step.argval) if step.opname in ("LOAD_GLOBAL", "LOAD_DEREF") else None
        if value is not None:
            yield holder, value
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _named(constant, variables)

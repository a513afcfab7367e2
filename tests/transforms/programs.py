"""The programs of functions: the equations that are bound, and the kernels and collectives of a compiled one."""

import collections
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core as jex_core

from pallas_conv import compat
from pallas_conv.primitives import NAME_OF


def equations(f: Callable[..., Any], *args: Any) -> dict[str, int]:
    """Number of times that each primitive is bound, after dead code elimination: {"affine y z": 1}; a loop's body once."""
    walk = _walk(jax.make_jaxpr(f)(*args).jaxpr)
    return dict(collections.Counter(equation_name(NAME_OF[eqn.primitive], eqn.params["outs"]) for eqn in walk))


def implementations(f: Callable[..., Any], *args: Any) -> list[tuple[str, ...]]:
    """The implementations that every equation asks for."""
    return [eqn.params["op"].implementation for eqn in _walk(jax.make_jaxpr(f)(*args).jaxpr)]


def _walk(jaxpr: Any) -> Iterator[Any]:
    for eqn in compat.dead_code_eliminated(jaxpr).eqns:
        if eqn.primitive in NAME_OF:
            yield eqn
        for leaf in jax.tree.leaves(eqn.params, is_leaf=lambda v: isinstance(v, jex_core.Jaxpr | jex_core.ClosedJaxpr)):
            if isinstance(leaf, jex_core.ClosedJaxpr):
                yield from _walk(leaf.jaxpr)
            elif isinstance(leaf, jex_core.Jaxpr):
                yield from _walk(leaf)


def equation_name(primitive: str, outs: Any) -> str:
    return " ".join([primitive, *(n for n, _ in outs)]) if primitive in ("affine", "bwd") else primitive


def results(compiled: jax.stages.Compiled, prefix: str) -> list[tuple[str, tuple[str, ...]]]:
    """(name, shapes of its results) of every Mosaic launch of a program whose kernel's name starts with prefix."""
    found = []
    for line in compiled.as_text().splitlines():
        if 'custom_call_target="mosaic_gpu' in line:
            name = re.search(rf"{prefix}(\w+?)(?:_\d+|_mosaic_gpu)?\b", line)
            shapes = line.split("=", 1)[1].split("custom-call(")[0]
            found.append((name.group(1) if name else "unknown", tuple(re.findall(r"\w+\[[\d,]*\]", shapes))))
    return sorted(found)


def launches(compiled: jax.stages.Compiled, prefix: str) -> dict[str, int]:
    return dict(collections.Counter(name for name, _ in results(compiled, prefix)))


COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def collectives(compiled: jax.stages.Compiled) -> dict[str, int]:
    pattern = rf"= .*? ({'|'.join(COLLECTIVES)})(?:-start)?\("
    return dict(collections.Counter(re.findall(pattern, compiled.as_text())))


def other_passes(compiled: jax.stages.Compiled) -> list[str]:
    """Every other operation of the entry computation that does some work."""
    text = compiled.as_text()
    entry = text[text.index("ENTRY") :].splitlines()[1:]
    found = [
        m.group(1) for line in entry if (m := re.match(r"\s*(?:ROOT )?%?[\w.-]+ = (?:\(.*?\)|\S+) ([\w-]+)\(", line))
    ]
    return [
        op
        for op in found
        if op not in ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "custom-call")
    ]

"""Swap the convolution layers of an existing equinox model for this package's, and back. Parameters are shared, not copied."""

import collections
import contextlib
import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

import equinox as eqx
import jax.tree_util as jtu

from ..implementation import Implementation, preferences
from .equinox import EXTRAS, LAYERS

CONVERTED, PENDING, LEFT_ALONE = "converted", "would be converted", "left alone"

_STOCK_LAYERS: dict[type, type] = {ours: stock for stock, ours in LAYERS.items()}
_SWAPS: dict[str, Any] = {"pallas_conv": LAYERS, "equinox": _STOCK_LAYERS}
_JitWrapper: Any = type(eqx.filter_jit(len))


def convert[T](model: T, to: str = "pallas_conv", implementation: Implementation | None = None) -> T:
    """The model with every convolution layer of equinox swapped for the layer of the same name in this package, or back.

    The same function of the same parameters: the leaves of the result are the very objects of `model`, in the same order, so
    checkpoints of leaves (`equinox.tree_serialise_leaves`) made for one fit the other. What repeats the model's structure,
    such as an optimiser's state, a moving average or a filter, is converted with it: `state = convert(state)`. Under
    `jax.checkpoint`, pass `pallas_conv.dots_saveable` for the policy of that name, which knows JAX's own convolutions only.

    Layers keep their place in whatever holds them: modules, containers, `equinox.nn.Shared`, `WeightNorm`, `SpectralNorm`,
    ensembles made by `equinox.filter_vmap`. An object that occurs twice is still one object that occurs twice, and what
    holds no layer is passed on as it is.

    Left alone (`pallas_conv.convert_report` says so): subclasses other than equinox's and this package's own, which may
    compute something else; layers with an `activation` or `compute_dtype` on the way to equinox, which has neither. Layers
    outside the pytree, in a static field, the closure of a function, or `equinox.filter_jit(layer)`, cannot be reached:
    convert them before.

    **Arguments:**

    - `model`: any pytree; arrays may be `jax.ShapeDtypeStruct` or None.
    - `to`: `"pallas_conv"`, or `"equinox"` to restore the stock classes, which drops `implementation`.
    - `implementation`: a name or a tuple of names for all layers, also those converted already, see
        `pallas_conv.implementation`. None: new layers follow that context, layers converted already keep what they have.

    **Returns:** the converted model; `model` itself is not changed.

    **Raises:** `ValueError` for another `to`, for an unknown `implementation`, and for one given with `to="equinox"`.
    """
    swaps = _swaps(to)
    chosen = None if implementation is None else preferences(implementation)
    if chosen and to == "equinox":
        raise ValueError(
            f"implementation must be None for to='equinox', whose layers have none; got {implementation!r}"
        )
    done: dict[int, tuple[Any, Any]] = {}  # by id; the first entry keeps the object, hence its id, alive

    def visit(node: Any) -> Any:
        if id(node) not in done:
            done[id(node)] = (node, swapped(_map_children(visit, node)))
        return done[id(node)][1]

    def swapped(node: Any) -> Any:
        if not _is_layer(node):
            return node
        status, _ = _verdict(node, to)
        if status == PENDING:
            extras = dict.fromkeys(EXTRAS) | {"implementation": chosen} if to == "pallas_conv" else {}
            fields = {name: value for name, value in vars(node).items() if name not in EXTRAS}
            return _new(swaps[type(node)], fields | extras)
        if status == CONVERTED and chosen and chosen != node.implementation:
            return _new(type(node), vars(node) | {"implementation": chosen})
        return node

    return visit(model)


@dataclasses.dataclass(frozen=True)
class Row:
    """One convolution layer of a model.

    path      where it is, as `jax.tree_util.keystr` writes it; "" is the model itself
    layer     its class
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
    """The convolution layers of a model, in the order of its pytree; iterable and printable."""

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
        layers = f"{len(self.rows)} convolution layer{'s' * (len(self.rows) != 1)}"
        return "\n".join([f"{layers}: {summary}" if summary else layers, *(f"  {row}" for row in self.rows)])


def convert_report(model: Any, to: str = "pallas_conv") -> ConversionReport:
    """What `pallas_conv.convert(model, to)` does, or did, with every convolution layer, and why.

    Also lists layers that it cannot reach: in static fields of modules, under `equinox.filter_jit`, and in functions
    (closures, defaults, bound methods, partials). Not seen are layers that a function takes from a global variable, or that
    a plain object holds.

    **Arguments:**

    - `model`: any pytree, converted or not.
    - `to`: as in `pallas_conv.convert`.

    **Returns:** a `ConversionReport`: iterable over rows with `path`, `layer`, `status` and `reason`; printable. A layer that
    occurs twice has two rows.

    **Raises:** `ValueError` for another `to`.
    """
    _swaps(to)

    def rows(path: tuple, node: Any) -> Iterator[Row]:
        if _is_layer(node):
            yield Row(jtu.keystr(path), _name(type(node)), *_verdict(node, to))
        for key, holder, value in _outside_the_tree(node):
            for layer in _layers_in(value, set()):
                known = _verdict(layer, to)
                unreachable = (LEFT_ALONE, f"{holder} holds it, outside the pytree: convert it before it is put there")
                status, reason = known if known[0] == CONVERTED else unreachable
                yield Row(jtu.keystr(path + key), _name(type(layer)), status, reason)
        for key, child in _children(node)[0]:
            yield from rows(path + key, child)

    return ConversionReport(tuple(rows((), model)))


def _swaps(to: str) -> Mapping[type, type]:
    if not isinstance(to, str) or to not in _SWAPS:
        raise ValueError(f"to must be 'pallas_conv' or 'equinox'; got {to!r}")
    return _SWAPS[to]


def _is_layer(node: Any) -> bool:
    return isinstance(node, eqx.nn.Conv | eqx.nn.ConvTranspose)


def _verdict(layer: Any, to: str) -> tuple[str, str]:
    """Status and reason of a layer."""
    kind, swaps = type(layer), _SWAPS[to]
    if kind in swaps.values():
        return CONVERTED, ""
    if kind not in swaps:
        parent = next(base for base in kind.__mro__ if base in LAYERS or base in _STOCK_LAYERS)
        return (
            LEFT_ALONE,
            f"a subclass of {_name(parent)} may compute something else; only that class itself is converted",
        )
    if to == "equinox":
        extras = {name: getattr(layer, name) for name in EXTRAS if name != "implementation"}
        lost = [f"{name}={str(value)!r}" for name, value in extras.items() if value is not None]
        if lost:
            return (
                LEFT_ALONE,
                f"{_name(swaps[kind])} has no {' and no '.join(lost)}, without which it is another function",
            )
    return PENDING, f"to {_name(swaps[kind])}"


def _name(kind: type) -> str:
    package = "equinox.nn" if kind in LAYERS else "pallas_conv" if kind in _STOCK_LAYERS else kind.__module__
    return f"{package}.{kind.__qualname__}"


def _new(kind: type, fields: Mapping[str, Any]) -> Any:
    """A module with these fields, without its constructor, as equinox unflattens one."""
    module: Any = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(module, name, value)
    return module


# ---------------------------------------------------------------- one level of a pytree


def _children(node: Any) -> tuple[list[tuple[tuple, Any]], Any]:
    """The children of a node with their keys, and its structure; none for a leaf."""
    children, structure = jtu.tree_flatten_with_path(node, is_leaf=lambda other: other is not node)
    return ([], structure) if jtu.treedef_is_leaf(structure) else (children, structure)


def _map_children(f: Any, node: Any) -> Any:
    """The node with its children mapped; the node itself if that changes none."""
    children, structure = _children(node)
    mapped = [f(child) for _, child in children]
    if all(new is old for new, (_, old) in zip(mapped, children, strict=True)):
        return node
    return structure.unflatten(mapped)


# ---------------------------------------------------------------- what a pytree does not show


def _outside_the_tree(node: Any) -> Iterator[tuple[tuple, str, Any]]:
    """(key, what holds it, value) of the values that JAX does not see in this node."""
    if isinstance(node, eqx.Module):
        for field in dataclasses.fields(node):
            if field.metadata.get("static", False):
                yield (jtu.GetAttrKey(field.name),), "a static field", vars(node).get(field.name)
        if isinstance(node, _JitWrapper):
            yield (), "equinox.filter_jit", node.__wrapped__
    elif callable(node):
        yield (), "a function", node


def _layers_in(value: Any, seen: set[int]) -> Iterator[Any]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if _is_layer(value):
        yield value
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
    elif callable(value):
        inner = [getattr(value, "__wrapped__", None)]  # of jax.jit, jax.vmap, functools.wraps
        if isinstance(value, types.FunctionType):
            inner += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # not assigned yet
                    inner.append(cell.cell_contents)
    for part in inner:
        yield from _layers_in(part, seen)

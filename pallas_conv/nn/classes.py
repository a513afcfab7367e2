"""The class that a layer is given on the way to this package or to equinox, or why it keeps its own."""

import copyreg
import dataclasses
import inspect
import types
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx

from .equinox import EXTRAS, LAYERS

CONVERTED, PENDING, LEFT_ALONE = "converted", "would be converted", "left alone"

_STOCK: dict[type, type] = {ours: stock for stock, ours in LAYERS.items()}
_DERIVED: dict[type, type] = {}  # by the user's class; kept for ever, as JAX keeps every class of pytrees


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Status and reason, as in a row of the report, and the class that a layer which would be converted is given."""

    status: str
    reason: str = ""
    target: type | None = None


def is_layer(node: Any) -> bool:
    return isinstance(node, eqx.nn.Conv | eqx.nn.ConvTranspose)


def outcome(layer: Any, to: str) -> Outcome:
    """The outcome of `pallas_conv.convert` for this layer."""
    if isinstance(layer, tuple(_STOCK)) == (to == "pallas_conv"):
        return Outcome(CONVERTED)
    return _to_ours(type(layer)) if to == "pallas_conv" else _to_equinox(layer)


def name_of(kind: Any) -> str:
    """The name of a class as users know it, or of a function."""
    package = "equinox.nn" if kind in LAYERS else "pallas_conv" if kind in _STOCK else kind.__module__
    return f"{package}.{kind.__qualname__}"


def new(kind: type, fields: Mapping[str, Any]) -> Any:
    """A module with these fields, without its constructor, as equinox unflattens one."""
    module: Any = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(module, name, value)
    return module


def _nearest(kind: type, classes: Mapping[type, type]) -> type:
    return next(base for base in kind.__mro__ if base in classes)


def _to_ours(kind: type) -> Outcome:
    stock = _nearest(kind, LAYERS)
    ours = LAYERS[stock]
    if kind is stock:
        return Outcome(PENDING, f"to {name_of(ours)}", ours)
    obstacle = _obstacle(kind, stock)
    if obstacle:
        return Outcome(LEFT_ALONE, obstacle)
    try:
        target = _derived(kind)
    except Exception as error:  # by the __init_subclass__ or the metaclass of the user's class, which run here
        return Outcome(LEFT_ALONE, f"it cannot be subclassed ({error}): have it derive from {name_of(ours)}")
    return Outcome(PENDING, f"to a subclass of it and of {name_of(ours)}", target)


def _to_equinox(layer: Any) -> Outcome:
    kind = type(layer)
    of_user = kind.__bases__[0]
    target = of_user if _DERIVED.get(of_user) is kind else _STOCK.get(kind)
    if target is None:
        return Outcome(LEFT_ALONE, f"a subclass of {name_of(_nearest(kind, _STOCK))} has no counterpart in equinox")
    extras = {name: getattr(layer, name) for name in EXTRAS if name != "implementation"}
    lost = [f"{name}={str(value)!r}" for name, value in extras.items() if value is not None]
    if lost:
        without = f"{name_of(target)} has no {' and no '.join(lost)}, without which it is another function"
        return Outcome(LEFT_ALONE, without)
    return Outcome(PENDING, f"to {name_of(target)}{' itself' * (target is of_user)}", target)


# ---------------------------------------------------------------- subclasses by users


def _obstacle(kind: type, stock: type) -> str:
    """The reason why our `__call__` may not do what the subclass does. Empty if it does: only the constructor may differ."""
    ours = LAYERS[stock]

    def overridden(names: Iterable[str]) -> str:
        found = lambda kind, name: inspect.getattr_static(kind, name, None)
        return ", ".join(name for name in names if found(kind, name) is not found(stock, name))

    own_fields = dataclasses.fields(stock)
    added = [field.name for field in dataclasses.fields(kind) if field not in own_fields]
    methods = [name for name, value in inspect.getmembers(stock, inspect.isfunction) if not name.startswith("__")]
    derive = f"have it derive from {name_of(ours)}"
    if overridden(["__call__"]):
        return f"its __call__ is not that of {name_of(stock)} and may compute something else: {derive}"
    if added:
        return f"it declares fields that {name_of(stock)} does not: {', '.join(added)}; {derive}"
    if names := overridden(EXTRAS):
        return f"its {names} would hide what {name_of(ours)} has under that name: rename it"
    if names := overridden([*methods, *(field.name for field in own_fields), "__getattribute__"]):
        return f"it overrides {names}, on which the __call__ of {name_of(stock)} relies: {derive} and override __call__"
    return ""


def _derived(kind: type) -> type:
    """The class of the user's layers once they are converted: theirs and ours, of which only ours has a `__call__`."""
    if kind not in _DERIVED:
        names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        bases = (kind, LAYERS[_nearest(kind, LAYERS)])
        made = types.new_class(kind.__name__, bases, exec_body=lambda namespace: namespace.update(names))
        copyreg.pickle(made, _reduced)  # under its name, pickle would find the user's class
        _DERIVED.setdefault(kind, made)
    return _DERIVED[kind]


def _reduced(layer: Any) -> tuple[Any, ...]:
    return _restored, (type(layer).__bases__[0], vars(layer))


def _restored(kind: type, fields: Mapping[str, Any]) -> Any:
    return new(_derived(kind), fields)

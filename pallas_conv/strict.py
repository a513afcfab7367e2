"""JSON forms of dataclasses and named tuples, parsed strictly: every field is there, is known, and is of its type."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> Any:
    """The value as `json.loads` would give it back: records as dictionaries of all their fields, tuples as lists."""
    if _is_record(type(value)):
        return {name: to_json(getattr(value, name)) for name in typing.get_type_hints(type(value))}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, tuple | list) else value


def parse(kind: Any, value: Any, where: str) -> Any:
    """The inverse of `to_json`, for a type. Raises ValueError, which names the field below `where`, for anything else.

    Types are records, tuples, dictionaries with names as keys, str, int, float, bool, None, and unions of these; Any stays
    as it is.
    """
    if kind is Any:
        return value
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _parse_union(arguments, value, where)
    if origin is tuple:
        return _parse_tuple(arguments, value, where)
    if origin is dict:
        return {key: parse(arguments[1], item, f"{where}.{key}") for key, item in _object(value, where).items()}
    if _is_record(kind):
        return _parse_record(kind, _object(value, where), where)
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} must be {_name(kind)}, not {value!r}")
    return value


def renamed(value: Any, former: Mapping[str, str], where: str) -> Any:
    """A JSON object whose fields have their present names instead of former ones; anything else as it is.

    Raises ValueError if a field is there by both names.
    """
    if not isinstance(value, dict):
        return value
    for name, present in former.items():
        if name in value and present in value:
            raise ValueError(f"{where} has both {name!r} and {present!r}, which is what {name!r} is called now")
    return {former.get(name, name): item for name, item in value.items()}


def _is_record(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, tuple) and kind is not tuple)


def _name(kind: Any) -> str:
    return "null" if kind is types.NoneType else getattr(kind, "__name__", str(kind))


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object, not {value!r}")
    return value


def _parse_record(kind: Any, value: dict[str, Any], where: str) -> Any:
    kinds = typing.get_type_hints(kind)
    missing, unknown = kinds.keys() - value.keys(), value.keys() - kinds.keys()
    if missing or unknown:
        raise ValueError(
            f"{where} must have the fields of {kind.__name__}: missing {sorted(missing)}, unknown {sorted(unknown)}"
        )
    return kind(**{name: parse(kinds[name], value[name], f"{where}.{name}") for name in kinds})


def _parse_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a JSON array, not {value!r}")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{where} must have {len(kinds)} items, not {value!r}")
    return tuple(parse(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True)))


def _parse_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    kinds = tuple(k for k in kinds if k is not types.NoneType)
    if len(kinds) != 1:
        raise TypeError(f"{where} is of several types: only `| None` is parsed")
    return parse(kinds[0], value, where)

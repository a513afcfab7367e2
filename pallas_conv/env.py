"""Every environment variable that the package reads, validated, in one table."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple


class Variable(NamedTuple):
    default: Any
    parse: Callable[[str], Any]
    meaning: str


def _flag(text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise ValueError("expected 0 or 1")
    return text.lower() in ("1", "true")


def _default_cache() -> pathlib.Path:
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "pallas_conv"


VARIABLES = {
    "PALLAS_CONV_CACHE_DIR": Variable(
        _default_cache, lambda text: pathlib.Path(text).expanduser(), "where `doctor` keeps its records"
    ),
    "PALLAS_CONV_DETECT_RACES": Variable(
        lambda: False, _flag, "1: interpreted kernels check themselves for data races, and raise"
    ),
}


def read(name: str) -> Any:
    """The value of a variable of the table. Raises ValueError, naming the variable, for one that cannot be read."""
    variable = VARIABLES[name]
    text = os.environ.get(name, "")
    if not text:
        return variable.default()
    try:
        return variable.parse(text)
    except ValueError as error:
        raise ValueError(f"environment variable {name}={text!r}: {error} ({variable.meaning})") from None

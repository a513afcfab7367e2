"""`python -m pallas_conv explain module:function`: the plans of a function of one's own, see `explain`.

python -m pallas_conv explain train:step --device h100 --arg 'bfloat16[8,64,56,56]' --arg 'int32[8]'
"""

import argparse
import difflib
import importlib
import inspect
import os
import pathlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import UnsupportedError
from ..target import Target, resolve
from .explain import Explanation, explain

EXAMPLE = "'bfloat16[8,64,56,56]'"
MOST_NAMES = 5  # of functions, in a message
LIBRARIES = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), str(pathlib.Path(__file__).parent))


class Mistake(Exception):
    """A mistake in what was typed, and how to mend it."""


class Failure(Exception):
    """An error in the user's function, and its place."""


def add_to(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("function", metavar="module:function", help="a layer or function of a module, in this folder or installed")
    add("--device", type=_device, metavar="NAME", help="a GPU's name, such as h100, or cpu (default: what is here)")
    add("--arg", action="append", default=[], type=_shape, metavar="SHAPE", help=f"of each argument, such as {EXAMPLE}")
    add("--traceback", action="store_true", help="show all of the traceback if the function fails")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        f = _function(options.function)
        _check_arguments(options.function, f, options.arg)
        print(_explained(f, options))
    except Mistake as mistake:
        print(f"pallas_conv explain: {mistake}", file=sys.stderr)
        return 2
    except UnsupportedError as error:
        print(error, file=sys.stderr)
        return 1
    except Failure as failure:
        print(f"pallas_conv explain: {failure}", file=sys.stderr)
        return 1
    return 0


def _explained(f: Callable[..., Any], options: argparse.Namespace) -> Explanation:
    try:
        return explain(f, *options.arg, device=options.device)
    except UnsupportedError:
        raise
    except Exception as error:
        if options.traceback:
            raise
        raise Failure(_where(error)) from error


def _where(error: Exception) -> str:
    """The error, and its place in the innermost function that is of no library."""
    from ..doctor.text import first_line

    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*LIBRARIES, "<"))]
    at = f"\n  {frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}: {frames[-1].line}" if frames else ""
    return f"{first_line(error)}{at}\n  --traceback shows all of it"


def _device(name: str) -> Target:
    try:
        return resolve(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _shape(text: str) -> jax.ShapeDtypeStruct:
    """The shape in a text such as "bfloat16[8,64,56,56]". A scalar is "float32[]"."""
    match = re.fullmatch(r"(\w+)\[([\d,\s]*)\]", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} must be a dtype and a shape, as in {EXAMPLE}")
    name, sizes = match.groups()
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: there is no dtype {name!r}; bfloat16 and float32 are two"
        ) from None
    return jax.ShapeDtypeStruct([int(size) for size in sizes.split(",") if size.strip()], dtype)


def _function(text: str) -> Callable[..., Any]:
    """The object that "module:name" names, imported from the current folder as `python -m` does."""
    module, _, names = text.partition(":")
    if not module or not names:
        raise Mistake(f"{text!r} must be module:function, such as train:step for the function step of train.py")
    found: Any = _module(module)
    for name in names.split("."):
        if not hasattr(found, name):
            raise Mistake(f"the module {module!r} has no {names!r}{_nearest(name, found)}")
        found = getattr(found, name)
    if inspect.isclass(found):
        raise Mistake(f"{text} is a class: name an instance or a function")
    if not callable(found):
        raise Mistake(
            f"{text} is of type {type(found).__name__}: name a function, a layer or a model that can be called"
        )
    return found


def _module(name: str) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # another one, which the module imports
        raise Mistake(
            f"there is no module {name!r} in {os.getcwd()}, and none is installed: change to its folder"
        ) from None


def _nearest(name: str, owner: Any) -> str:
    """The owner's names that are near this one, or all of its names if they are few."""
    names = [n for n, f in getattr(owner, "__dict__", {}).items() if callable(f) and not n.startswith("_")]
    if len(names) > MOST_NAMES:
        names = difflib.get_close_matches(name, names, MOST_NAMES)
    return f"; it has {', '.join(names)}" if names else ""


def _check_arguments(name: str, f: Callable[..., Any], arguments: Sequence[Any]) -> None:
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # of a function without one
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise Mistake(f"{name}{signature}: {error}; give a --arg for each argument, such as --arg {EXAMPLE}") from None

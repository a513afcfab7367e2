"""Digests of a family's source, under which hardware runs are filed.

`code` covers the source that decides what a kernel computes, and under which keys proofs are filed. A proof that a kernel is
right holds as long as this digest stays. `choice` covers the source that decides which tiles a product gets. A time holds as
long as this digest stays; a proof does not depend on it. The lax program that a kernel was timed beside is named with the time,
and gets another name when it becomes another program.

Both digests cover a family's folder, that of a family whose kernel it launches, and what they import, so an edit of one family
leaves the records of others alone. Both are computed from the syntax tree: comments, docstrings and layout do not count, and
every version of Python gives the same.
"""

import ast
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator

from pallas_conv import activations, spec

_KERNELS = pathlib.Path(__file__).parent
_CHOICE = {"chips.py", "choice.py", "cost.py", "search.py", "tuned.py", "work.py"}
_SHARED = (activations, spec)  # what the kernels import from the package


@functools.cache
def code(family: str) -> str:
    """The digest of a family's kernels, and of all that they import. Raises ValueError for a family that is not there."""
    roots = [_KERNELS / "serve.py", *_files(family)]
    own = sorted(_imported(roots, lambda path: path.name in _CHOICE or path.name == "families.py"))
    return _digest(_KERNELS, own, [pathlib.Path(str(module.__file__)) for module in _SHARED])


@functools.cache
def choice(family: str, device_kind: str | None = None) -> str:
    """The digest of the cost model, of the candidates, and of what was measured and tuned on this kind of device.

    For a kind that was neither measured nor tuned it covers the rows of all kinds. So what is learnt of one kind does not make
    the times of another obsolete. Raises ValueError for a family that is not there.
    """
    own = sorted(path for path in (*_KERNELS.glob("*.py"), *_files(family)) if path.name in _CHOICE)
    rows = functools.partial(_rows_that_count, family=family, device_kind=device_kind)
    return _digest(_KERNELS, own, sorted(_KERNELS.glob("*.json")), rows)


def _files(family: str) -> list[pathlib.Path]:
    """The modules of a family's folder, and of those of families that it imports from."""
    own = list((_KERNELS / family).glob("*.py"))
    if not own:
        raise ValueError(f"there is no family of kernels named {family!r}")
    launched = {module.parent for path in own for module in _imports(path)} - {_KERNELS, _KERNELS / family}
    return own + [path for folder in sorted(launched) for path in folder.glob("*.py")]


def _imported(roots: Iterable[pathlib.Path], left_out: Callable[[pathlib.Path], bool]) -> set[pathlib.Path]:
    """The roots and the modules of this package that they import, directly or not, except those that are left out."""
    found: set[pathlib.Path] = set()
    todo = list(roots)
    while todo:
        path = todo.pop()
        if path not in found and not left_out(path):
            found.add(path)
            todo += _imports(path)
    return found


def _imports(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The modules that a file imports from this package, by `from ..ring import Ring` or `from .. import ring`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            modules = [folder.with_suffix(".py"), *(folder / f"{alias.name}.py" for alias in node.names)]
            yield from (module for module in modules if module.is_file())


def _rows_that_count(table: str, family: str, device_kind: str | None) -> str:
    """The table as JSON, with the family's rows alone, and of these only the device's if it has any."""
    data = json.loads(table)
    rows = data if isinstance(data, list) else data["measured"]
    rows[:] = [row for row in rows if row.get("family", family) == family]
    if own := [row for row in rows if row["device_kind"] == device_kind]:
        rows[:] = own
    return json.dumps(data)


def _digest(
    root: pathlib.Path,
    own: Iterable[pathlib.Path],
    others: Iterable[pathlib.Path],
    of_table: Callable[[str], str] = str,
) -> str:
    digest = hashlib.sha256()
    named = [(path.relative_to(root).as_posix(), path) for path in own] + [(path.name, path) for path in others]
    for name, path in named:
        text = path.read_text(encoding="utf-8")
        meaning = "".join(meaning_of(text)) if path.suffix == ".py" else of_table(text)
        digest.update(f"{name}\0{meaning}\0".encode())
    return digest.hexdigest()[:12]


def meaning_of(source: str) -> Iterator[str]:
    """The syntax tree of a module as text, without docstrings. Not `ast.dump`, whose form differs between versions."""
    yield from _written(ast.parse(source))


def _written(node: object) -> Iterator[str]:
    if isinstance(node, ast.AST):
        yield f"({type(node).__name__}"
        for name, value in ast.iter_fields(node):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and name == "body":
                value = _without_docstring(value)
            if value is not None and value != [] and name not in ("ctx", "kind", "type_comment", "type_ignores"):
                yield f" {name}="
                yield from _written(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in node:
            yield from _written(item)
            yield ","
        yield "]"
    else:
        yield repr(node)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if is_text else body

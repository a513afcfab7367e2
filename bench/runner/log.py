"""Rows of a run: appended to a file of JSON lines at once, and said in one line each."""

import contextlib
import json
import math
import os
import pathlib
import time
import traceback
from typing import Any

from .script import Row

FIRST_FAMILY = "dense"  # of kernels: rows of when there was no other do not name it
SAID = ("ms", "ratio", "ratio_best", "fraction", "tflops", "gbps", "error", "bound", "difference", "seconds")


class Log:
    """Appends rows to a file, and keeps those of the run so far, earlier workers' too."""

    def __init__(self, path: pathlib.Path, started: float):
        self.path, self.started, self.rows = path, started, read(path)

    def __call__(self, kind: str, name: str, row: Row) -> Row:
        row = {"kind": kind, "name": name, "status": "ok", "t": round(time.time() - self.started, 2)} | row
        _append(self.path, dumps(row))
        self.rows.append(row)
        print(_said(row), flush=True)
        return row


def _append(path: pathlib.Path, line: str) -> None:
    """Append on a line of its own: a worker may have been killed in the middle of one."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            file.write(b"" if file.read(1) == b"\n" else b"\n")
        file.write(f"{line}\n".encode())


def _said(row: Row) -> str:
    parts = (f"{k}={v:.4g}" for k in SAID if isinstance(v := row.get(k), int | float))
    why = str(row.get("exception", ""))[:200]
    told = [f"{row['t']:7.1f} s", row["kind"], row["name"], row.get("impl", ""), row["status"], *parts, why]
    return " ".join(str(word) for word in told if word)


def read(path: pathlib.Path) -> list[Row]:
    """The rows of a file; what a worker was killed in the middle of is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def by_family(said: Any) -> dict[str, Any]:
    """A field of a row that is of each family of kernels, by its name."""
    return said if isinstance(said, dict) else {FIRST_FAMILY: said}


def family_of(row: Row) -> str:
    """The name of the family whose kernel a row is of."""
    return str(row.get("family", FIRST_FAMILY))


def digests(said: Any) -> str:
    """The digests of all families in one line."""
    return " ".join(map(str, by_family(said).values()))


def dumps(value: Any) -> str:
    """JSON of anything, on one line: what it has no words for as text."""
    return json.dumps(_strict(value), default=str, allow_nan=False)


def _strict(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def error(found: BaseException) -> Row:
    """The fields of a row about an exception."""
    trace = "".join(traceback.format_exception(found))
    return {"status": "error", "exception": f"{type(found).__name__}: {found}"[:500], "traceback": trace[-4000:]}

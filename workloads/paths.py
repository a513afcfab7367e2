"""One small case for every code path that is chosen for wanted products, as data: `python -m bench.paths` makes the file."""

import json
import pathlib
from typing import Any

from pallas_conv import strict

from .configured import Case

FILE = pathlib.Path(__file__).with_name("paths.json")


def cases(file: pathlib.Path = FILE) -> tuple[Case, ...]:
    """The cases of the file."""
    rows = strict.parse(tuple[Any, ...], json.loads(file.read_text()), file.name)
    return tuple(Case.from_json(row, f"{file.name}[{i}]") for i, row in enumerate(rows))

"""One small case for every code path that is chosen for wanted products, as data: `python -m bench.paths` makes the file."""

import json
import pathlib
from typing import Any

from pallas_conv import strict
from pallas_conv.kernels.family import Family

from .configured import Case

FILE = pathlib.Path(__file__).with_name("paths.json")


def cases(file: pathlib.Path = FILE) -> tuple[Case, ...]:
    """The cases of the file."""
    rows = strict.parse(tuple[Any, ...], json.loads(file.read_text()), file.name)
    return tuple(Case.from_json(row, f"{file.name}[{i}]") for i, row in enumerate(rows))


def cases_of(family: Family) -> list[Case]:
    """The cases of the file whose kernels are of this family."""
    return [case for case in cases() if case.kernel.family is family]

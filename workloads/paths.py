"""One small case for every code path that is chosen for wanted products, as data: `python -m bench.paths` makes the file."""

import dataclasses
import json
import pathlib

from pallas_conv import strict

from .configured import Case

FILE = pathlib.Path(__file__).with_name("paths.json")


def cases(file: pathlib.Path = FILE) -> tuple[Case, ...]:
    """The cases of the file."""
    found = strict.parse(tuple[Case, ...], json.loads(file.read_text()), file.name)
    return tuple(_configured(case, f"{file.name}[{i}].config") for i, case in enumerate(found))


def _configured(case: Case, where: str) -> Case:
    """The case with its configuration as its family has it."""
    return dataclasses.replace(case, config=case.kernel.family.config.from_json(case.config, where))

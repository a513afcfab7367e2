"""One small case for every code path that is chosen for wanted products, as data: `python -m bench.paths` makes the file."""

import json
import pathlib

from pallas_conv import strict

from .configured import Case

FILE = pathlib.Path(__file__).with_name("paths.json")


def cases(file: pathlib.Path = FILE) -> tuple[Case, ...]:
    """The cases of the file."""
    return strict.parse(tuple[Case, ...], json.loads(file.read_text()), file.name)

"""The products that users want kernels for: those of published layers and networks, as data beside this file.

`python -m bench.wanted`, in a checkout, makes it anew.
"""

import dataclasses
import functools
import json
import pathlib

from . import strict
from .spec import Product

FILE = pathlib.Path(__file__).with_name("wanted.json")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of the suite in one direction, as in "resnet50_c2/f": forward, gradient of input (d) or weights (w), all (b)."""

    name: str
    product: Product


@dataclasses.dataclass(frozen=True)
class Use:
    """A product of a network's training step, and how often it occurs there."""

    network: str
    count: int
    product: Product


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Every product that a kernel serves on Hopper: of the suite, and of the networks, each once a layer or network."""

    suite: tuple[Layer, ...]
    networks: tuple[Use, ...]


@functools.cache
def wanted(file: pathlib.Path = FILE) -> Wanted:
    """The wanted products of a file. Raises ValueError, which names the row and its field, for anything else."""
    return strict.parse(Wanted, json.loads(file.read_text()), file.name)

"""The form of a question: a kernel, ways to run it with plans of so many repetitions, and sizes for them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from . import kernels

CHECKED = 5  # repetitions after which a result is looked at
ROW = 64  # bfloat16 elements of 128 bytes


class Repetition(NamedTuple):
    """The time that one repetition takes, in every block at the same time."""

    us: float
    clocks: float


@dataclasses.dataclass(frozen=True)
class Run:
    """A way to run a kernel.

    name   of its row
    unit   of its value
    count  repetitions of the longer of two launches; the shorter one takes a quarter
    plan   of so many repetitions
    value  of a repetition
    facts  that its row has, too
    """

    name: str
    unit: str
    count: int
    plan: Callable[[int], np.ndarray]
    value: Callable[[Repetition], float]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Question:
    """A kernel, and the ways to run it.

    kernel  its name: others of the same name are of the same code
    build   compiles it, or with interpret=True has it interpreted
    shapes  of its operands, after the plan
    right   whether the result of a plan is, of (plan, operands, result)
    """

    name: str
    kernel: str
    build: Callable[..., kernels.Kernel]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    right: Callable[[np.ndarray, list[np.ndarray], np.ndarray], bool]
    runs: tuple[Run, ...]

    @property
    def blocks(self) -> int:
        return len(self.runs[0].plan(0))


class Sizes(NamedTuple):
    """Sizes of what is asked: the device's, or so small that kernels can be interpreted."""

    sms: int
    dry: bool

    @property
    def pixels(self) -> tuple[int, int]:
        """An array that L2 cannot hold: 512 MiB."""
        return (self.box[0] * (64 if self.dry else 2**15), ROW)

    @property
    def box(self) -> tuple[int, int]:
        """16 KiB of it."""
        return (8 if self.dry else 128, ROW)

    def count(self, repetitions: int) -> int:
        return CHECKED if self.dry else repetitions

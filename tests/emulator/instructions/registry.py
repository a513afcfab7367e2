"""The registry of functions that execute instructions. Each room adds its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..blocks import Active, Warp
from ..opcodes import Opcodes
from ..ptx import Inst

if TYPE_CHECKING:
    from ..cluster import Cluster

# Executes the instruction for the active lanes of a warp; None if it did, else why the warp cannot go on yet.
type Effect = Callable[["Cluster", Warp, Active, Inst], str | None]

EFFECTS: Opcodes[Effect] = Opcodes()
executes = EFFECTS

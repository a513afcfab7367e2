"""Instructions with effects beyond a lane's registers, by rooms; `EFFECTS` finds the function of an opcode.

Titles are those of "Instruction Set" in the PTX ISA.
"""

from . import barriers, control, cp_async, memory, tensor_core, tma
from .registry import EFFECTS

__all__ = ["EFFECTS", "barriers", "control", "cp_async", "memory", "tensor_core", "tma"]

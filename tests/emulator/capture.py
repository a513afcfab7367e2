"""Captures what a Pallas kernel becomes for a GPU that is not there: its PTX, its launch, its tensor maps.

All of it is in what Mosaic dumps when it compiles: the PTX, and the host's code, see `host_code`. Nothing here depends on
private Python of JAX.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from compiled import aot

from .host_code import read_launch
from .launch import Launch


@dataclasses.dataclass(frozen=True)
class Captured:
    ptx: str
    launch: Launch


def capture(f: Callable[..., Any], specs: list[jax.ShapeDtypeStruct], target: str = "h100") -> Captured:
    """Capture the one Mosaic kernel of f for arguments of these shapes, compiled for a target of compiled/targets."""
    ptx, separator, host = aot.instructions(target, f, *specs).partition("; ModuleID")
    if not separator:
        raise RuntimeError("Mosaic's dump of the host's code does not begin as LLVM's modules do")
    return Captured(ptx, read_launch(host))

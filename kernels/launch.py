"""The launch of a kernel whose body is an object: what it computes with are static numbers, its operands have names."""

import functools
import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from jax import Array

from . import mosaic as mgpu


class Body(Protocol):
    """A kernel's body."""

    def out_type(self) -> list[jax.ShapeDtypeStruct]:
        """The results, as the kernel stores them."""

    def scratch_types(self) -> list[Any]:
        """Shared memory and barriers of a thread block."""

    def body(self, names: tuple[str, ...], *refs: Any) -> None:
        """Run one warpgroup. names: those of the operands, with which `refs` begins; results and scratch follow."""


def launch(
    kernel: Body, given: Mapping[str, Array], *, workers: int, warpgroups: int, macs: int, name: str, interpret: bool
) -> list[Array]:
    """The results of a kernel for operands in global memory, by their names.

    workers: thread blocks, along the axis "sm". warpgroups: those of a thread block, along the axis "wg". macs: useful
    multiply-adds, for XLA's cost estimate.
    """
    size = lambda a: math.prod(a.shape) * a.dtype.itemsize
    moved = sum(map(size, [*given.values(), *kernel.out_type()]))
    outs: list[Array] = mgpu.kernel(
        functools.partial(kernel.body, tuple(given)),
        out_type=kernel.out_type(),
        grid=(workers,),
        grid_names=("sm",),
        num_threads=warpgroups,
        thread_name="wg",
        scratch_types=kernel.scratch_types(),
        kernel_name=name,
        cost=mgpu.CostEstimate(flops=2 * macs, transcendentals=0, bytes_accessed=moved),
        interpret=interpret,
    )(*given.values())
    return outs

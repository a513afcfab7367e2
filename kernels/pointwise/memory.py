"""The arrays that the kernel's warpgroups share, in global memory and in the shared memory of a block."""

from typing import Any, NamedTuple

from jax import Array

from .. import mosaic as mgpu
from ..ring import Ring
from ..store import Buffers


class Global(NamedTuple):
    """The operands and results, as `operands.Views` has them. a, db: None if there is none."""

    x: Any
    ct: Any
    w: Any
    a: Any
    dx: Any
    dw: Any
    db: Any


class Buffer(NamedTuple):
    """A buffer as TMA and as wgmma see it."""

    tma: Any
    mma: Any


class Shared(NamedTuple):
    """The shared memory of a block, and its barriers."""

    ct: Buffer  # [stages, slot_chunks, *step_pixels, CHUNK]: the cotangent, which the producer may multiply
    saved: Buffer | None  # the same: what the activation saved
    x: Buffer  # [X_STAGES, column_blocks, *step_pixels, CHUNK]
    w: Buffer  # [row_blocks, column_blocks, CHUNK, CHUNK]
    staging: Buffers
    ring: Ring  # of ct and saved
    x_ring: Ring
    multiplied: Any  # the cotangent in a slot has been, by the derivative of an activation; None without one
    weights_ready: Any

    def await_cotangent(self, slot: Array) -> None:
        """Wait, as a consumer, until a slot has the cotangent that gradients are made of."""
        mgpu.barrier_wait((self.ring.full if self.multiplied is None else self.multiplied).at[slot])

"""The ring of slots between a producer warpgroup, which loads, and consumer warpgroups, which multiply.

Each slot has two barriers. `full` completes when TMA has written all bytes of a slot, `empty` when all consumers have handed it
back; a consumer begins by handing all of them over. With three slots, a producer P and a consumer C:

    slot 0   P fills | C multiplies | back | P fills | ...
    slot 1            P fills | C multiplies | back | P fills
    slot 2                     P fills | C multiplies | back

A consumer hands a slot back one step late: its products run asynchronously, and only when those of the next slot have been
issued can it wait for these alone.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array

from . import mosaic as mgpu


@dataclasses.dataclass(frozen=True)
class Ring:
    """The barriers of a ring. A warpgroup calls the methods, as the producer or as a consumer."""

    stages: int
    full: Any
    empty: Any

    @staticmethod
    def barriers(stages: int, copies: int, consumers: int, cluster: int) -> list[Any]:
        """The types of `full` and `empty`. copies: TMA copies that fill a slot.

        In a cluster whose blocks share what is loaded, a slot is free when the consumers of both have read it.
        """
        empty: Any = mgpu.Barrier(num_arrivals=consumers, num_barriers=stages)
        if cluster > 1:
            empty = mgpu.ClusterBarrier(collective_axes=("cta",), num_arrivals=consumers, num_barriers=stages)
        return [mgpu.Barrier(num_arrivals=copies, num_barriers=stages), empty]

    def next_slot(self, slot: Array) -> Array:
        """The next slot."""
        return jnp.where(slot == self.stages - 1, 0, slot + 1)

    def previous_slot(self, slot: Array) -> Array:
        """The slot before."""
        return jnp.where(slot == 0, self.stages - 1, slot - 1)

    def acquire(self, slot: Array) -> None:
        """Wait, as the producer, until a slot may be filled."""
        mgpu.barrier_wait(self.empty.at[slot])

    def wait(self, slot: Array) -> None:
        """Wait, as a consumer, until a slot is filled."""
        mgpu.barrier_wait(self.full.at[slot])

    def release(self, slot: Array | int) -> None:
        """Hand a slot back, as a consumer."""
        mgpu.barrier_arrive(self.empty.at[slot])

    def hand_over(self) -> None:
        """Hand all slots to the producer, as a consumer that begins."""
        for slot in range(self.stages):
            self.release(slot)

    def drain(self, slot: Array) -> None:
        """Wait, as the producer, until all slots are back, from this one on: a block must not end while others still arrive."""
        for _ in range(self.stages):
            self.acquire(slot)
            slot = self.next_slot(slot)

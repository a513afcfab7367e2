"""NVIDIA GPUs as data: what a kernel's plan needs to know of a generation, and what tells two chips of one apart.

A generation is a row of `GENERATIONS`; how fast its chips are is measured, see chips.py. Names of devices, as JAX has them, are
those of `pallas_conv.target`.
"""

import dataclasses

from pallas_conv.target import Target, from_device_kind

H100_SMS = 132  # streaming multiprocessors of an H100 SXM, assumed where the chip is not known


@dataclasses.dataclass(frozen=True)
class Generation:
    """The limits that all GPUs of one compute capability share.

    smem_bytes           shared memory of an SM that its thread blocks may have, the system's part of the first one excluded
    system_smem_bytes    shared memory that the system takes for every further block
    block_registers      32-bit registers of a thread where an SM holds one block of three warpgroups
    two_block_registers  the same where it holds two blocks of two
    """

    name: str
    capability: tuple[int, int]
    smem_bytes: int
    system_smem_bytes: int
    block_registers: int
    two_block_registers: int

    def smem_limit(self, blocks: int) -> int:
        """Bytes of shared memory that each of the blocks on an SM may have."""
        return self.smem_bytes // blocks - self.system_smem_bytes * (blocks - 1)

    def register_limit(self, blocks: int) -> int:
        """Registers that a thread of each of the blocks on an SM may have."""
        return self.block_registers if blocks == 1 else self.two_block_registers


HOPPER = Generation("Hopper", (9, 0), 227 * 1024, 1024, block_registers=168, two_block_registers=128)
GENERATIONS: dict[tuple[int, ...], Generation] = {generation.capability: generation for generation in (HOPPER,)}


def generations() -> str:
    """The compute capabilities of all generations, in words: "9.0 (Hopper)"."""
    return " or ".join("{}.{} ({})".format(*g.capability, g.name) for g in GENERATIONS.values())


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A chip that a kernel is planned for: by default any Hopper GPU with as many SMs as an H100.

    kind: as JAX names the device, "NVIDIA H100 80GB HBM3"; None where only its size is known.
    """

    num_sms: int = H100_SMS
    kind: str | None = None
    generation: Generation = HOPPER

    @classmethod
    def of(cls, target: Target) -> "Gpu":
        """The target's chip if kernels run on it, else the one on which they would."""
        generation = GENERATIONS.get(target.capability or (), HOPPER)
        num_sms = target.num_sms if target.capability == generation.capability else None
        return cls(num_sms or H100_SMS, target.device_kind, generation)

    def like(self, device_kind: str, num_sms: int) -> bool:
        """Whether such a device has as many SMs, and is known to be of this generation."""
        return (num_sms, from_device_kind(device_kind).capability) == (self.num_sms, self.generation.capability)


ANY_HOPPER = Gpu()

"""NVIDIA GPUs as data: what a kernel's plan needs to know of a generation, and what tells two chips of one apart.

A generation is a row of `GENERATIONS`; how fast its chips are is measured, see chips.py. Names of devices, as JAX has them, are
those of `pallas_conv.target`. What Mosaic makes of all generations alike is here, too: a plan imports no Pallas.
"""

import dataclasses

from pallas_conv.target import Target, from_device_kind

H100_SMS = 132  # streaming multiprocessors of an H100 SXM, assumed where the chip is not known
WARPGROUP = 128  # threads

MAX_ELEMENTS = 2**31 - 1  # of an array, and of whatever a kernel counts: its indices are 32 bits
MOST_BARRIERS = 32  # barriers of one kind that Mosaic takes
SMEM_ALIGNMENT = 1024  # bytes, of every buffer in shared memory, which Mosaic rounds up to it
BARRIER_BYTES = 8  # of shared memory


@dataclasses.dataclass(frozen=True)
class Generation:
    """The limits that all GPUs of one compute capability share.

    smem_bytes         shared memory of an SM that its thread blocks may have, the system's part of the first one excluded
    system_smem_bytes  shared memory that the system takes for every further block
    registers          32-bit registers of an SM
    thread_registers   the most of them that a thread may have
    """

    name: str
    capability: tuple[int, int]
    smem_bytes: int
    system_smem_bytes: int
    registers: int
    thread_registers: int

    def smem_limit(self, blocks: int) -> int:
        """Bytes of shared memory that each of the blocks on an SM may have."""
        return self.smem_bytes // blocks - self.system_smem_bytes * (blocks - 1)

    def register_limit(self, warpgroups: int) -> int:
        """Registers that a thread may have where an SM holds so many warpgroups, of all its blocks. They come in eights."""
        return min(self.registers // (warpgroups * WARPGROUP) // 8 * 8, self.thread_registers)


HOPPER = Generation("Hopper", (9, 0), 227 * 1024, 1024, registers=65536, thread_registers=255)
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

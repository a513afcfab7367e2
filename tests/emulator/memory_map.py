"""Places of things in the emulated address spaces (PTX ISA, "State Spaces").

Shared memory: the own block's at its offset, that of the block of rank r of the cluster at (r + 1) << 24.
Global memory: buffer n at (n + 1) << 40. Parameters, whose tensor maps are addressed generically: from 1 << 56.
"""

STATIC_BASE = (
    1024  # the system keeps the first KiB of a block's shared memory (CUDA C++ Programming Guide, from 8.0 on)
)
MOST_SHARED_KIB = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90a": 227}  # that a block may have, static and dynamic

SHARED_BITS = 24
SHARED_BYTES = 1 << SHARED_BITS
GLOBAL_BITS = 40
PARAMETERS = 1 << 56
PARAMETER_BITS = 32


def of_parameter(index: int) -> int:
    return PARAMETERS | index << PARAMETER_BITS


def of_buffer(index: int) -> int:
    return (index + 1) << GLOBAL_BITS

"""Operands of tensor cores: descriptors of matrices in shared memory, and fragments in registers.

Titles are those of "Asynchronous Warpgroup Level Matrix Instructions" and of "Warp Level Matrix Instructions" in the PTX ISA.
"""

import dataclasses
import functools

import numpy as np

from .faults import Fault, Unsupported
from .tensor_map import NO_SWIZZLE, swizzled

SWIZZLES = {0: NO_SWIZZLE, 1: 128, 2: 64, 3: 32}  # bytes, by the two bits of the descriptor


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """Matrix Descriptor Format: the start, the leading and the stride dimension byte offset, the swizzling mode."""

    start: int
    leading: int
    stride: int
    base_offset: int
    swizzle: int

    @classmethod
    def of(cls, bits: int) -> "Descriptor":
        field = lambda at, n: (bits >> at) & ((1 << n) - 1)
        swizzle = SWIZZLES[field(62, 2)]
        return cls(field(0, 14) << 4, field(16, 14) << 4, field(32, 14) << 4, field(49, 3), swizzle)


@functools.lru_cache(maxsize=8192)
def chunks(d: Descriptor, rows: int, depth_bytes: int, transposed: bool, itemsize: int) -> np.ndarray:
    """Indices of the chunks of shared memory that an operand is in (Shared Memory Matrix Layout).

    K-major: [row, chunk along K]. MN-major, which is transposed: [k, chunk along M or N].
    """
    span = d.swizzle
    if d.base_offset:
        raise Unsupported(f"a base offset of {d.base_offset} in a matrix descriptor")
    if span != NO_SWIZZLE and d.start % (8 * span) >= span:
        raise Fault(
            f"a matrix descriptor starts at {d.start:#x}: its pattern of eight rows of {span} bytes is not aligned"
        )
    if transposed:
        k = np.arange(depth_bytes // itemsize)[:, None]
        along = np.arange(0, rows * itemsize, 16)[None, :]
        if span == NO_SWIZZLE:
            at = d.start + (k // 8) * d.leading + (k % 8) * 16 + (along // 16) * d.stride
        else:
            at = d.start + (along // span) * d.leading + along % span + (k // 8) * d.stride + (k % 8) * span
    else:
        row = np.arange(rows)[:, None]
        k = np.arange(0, depth_bytes, 16)[None, :]
        if span == NO_SWIZZLE:
            at = d.start + (row // 8) * d.stride + (row % 8) * 16 + (k // 16) * d.leading
        elif d.start % span + depth_bytes > span:
            raise Fault(f"a matrix descriptor starts at {d.start:#x}: {depth_bytes} bytes along K leave its {span}")
        else:
            at = d.start + (row // 8) * d.stride + (row % 8) * span + k
    return swizzled(at, span) >> 4


def decode(raw: np.ndarray, kind: str) -> np.ndarray:
    """Bytes [..., 16] -> float32 [..., 16 / itemsize], as tensor cores read them: of TF32, without the last 13 bits."""
    if kind == "bf16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if kind == "f16":
        return raw.view(np.float16).astype(np.float32)
    return (raw.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def operand(memory: np.ndarray, at: np.ndarray, kind: str, transposed: bool) -> np.ndarray:
    """[rows, depth] of float32, from [chunks, 16] of bytes."""
    raw = memory[at]
    values = decode(raw.reshape(raw.shape[0], -1), kind)
    return values.T if transposed else values


def fragments_of_a(registers: list[np.ndarray], kind: str) -> np.ndarray:
    """[16, depth] of float32 (Matrix Fragments for mma.m16n8k16; Register Fragments of wgmma: a warp's 16 rows)."""
    values = _decoded(registers, kind).reshape(-1, 2, 8, 4, 1 if kind == "tf32" else 2)
    return values.transpose(1, 2, 0, 3, 4).reshape(16, -1)  # [half of K, half of the rows, group, place, element]


def fragments_of_b(registers: list[np.ndarray], kind: str) -> np.ndarray:
    """[depth, 8] of float32 (Matrix Fragments for mma.m16n8k16)."""
    values = _decoded(registers, kind).reshape(-1, 8, 4, 1 if kind == "tf32" else 2)
    return values.transpose(0, 2, 3, 1).reshape(-1, 8)


def _decoded(registers: list[np.ndarray], kind: str) -> np.ndarray:
    return decode(np.ascontiguousarray(np.stack(registers)).view(np.uint8).reshape(-1, 4), kind)


def to_matrix(registers: list[np.ndarray]) -> np.ndarray:
    """The accumulators of a warp, N / 2 registers of 32 lanes -> [16, N] (Register Fragments: D)."""
    columns = len(registers) * 2
    values = np.stack(registers).view(np.float32).reshape(columns // 8, 2, 2, 8, 4)  # [block, half, low, group, pair]
    return values.transpose(1, 3, 0, 4, 2).reshape(16, columns)


def to_registers(matrix: np.ndarray) -> np.ndarray:
    """[16, N] -> [N / 2, 32]."""
    columns = matrix.shape[1]
    values = matrix.reshape(2, 8, columns // 8, 4, 2).transpose(2, 0, 4, 1, 3)
    return np.ascontiguousarray(values).reshape(columns // 2, 32).view(np.uint32)

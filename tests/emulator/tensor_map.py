"""Tensor maps, and the boxes that TMA copies by them (PTX ISA, "Tensors"; CUDA Driver API, cuTensorMapEncodeTiled)."""

import dataclasses
import functools
import math

import numpy as np

from .faults import Fault

# By the numbers that Mosaic's mosaic_gpu_init_tma_desc gives them: CUtensorMapDataType, and the bytes of an element.
ELEMENTS = {
    1: ("UINT8", 1),
    2: ("UINT16", 2),
    3: ("UINT32", 4),
    5: ("FLOAT16", 2),
    6: ("FLOAT32", 4),
    7: ("BFLOAT16", 2),
    8: ("INT32", 4),
}
NO_SWIZZLE = 16
SWIZZLE_MASKS = {NO_SWIZZLE: 0, 32: 1, 64: 3, 128: 7}  # which of the address bits from 7 on permute chunks of 16 bytes


@dataclasses.dataclass(frozen=True)
class TensorMap:
    """The arguments of cuTensorMapEncodeTiled, innermost dimension first; strides in bytes, of all but the innermost.

    Mosaic's runtime passes element strides of 1, no interleave, and zeros out of bounds, always.

    buffer  which of the kernel's the tensor is in
    offset  of the tensor there, in bytes
    """

    buffer: int
    offset: int
    element: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int

    @classmethod
    def of_mosaic(cls, buffer, offset, element, sizes, strides, box, swizzle) -> "TensorMap":
        """A tensor map from the arguments of mosaic_gpu_init_tma_desc: outermost dimension first, strides in elements."""
        if strides[-1] != 1:
            raise Fault(f"tensor map: the innermost stride is {strides[-1]}, not 1")
        in_bytes = (stride * ELEMENTS[element][1] for stride in strides[-2::-1])
        return cls(buffer, offset, element, tuple(sizes[::-1]), tuple(in_bytes), tuple(box[::-1]), swizzle)

    @property
    def itemsize(self) -> int:
        return ELEMENTS[self.element][1]

    @property
    def box_bytes(self) -> int:
        return math.prod(self.box) * self.itemsize

    @property
    def row_bytes(self) -> int:
        return self.box[0] * self.itemsize

    @property
    def dtype(self) -> type:
        return {1: np.uint8, 2: np.uint16, 4: np.uint32}[self.itemsize]

    def validate(self, buffer_bytes: int) -> None:
        """The conditions that the documentation of cuTensorMapEncodeTiled states, and the end of the buffer."""
        reach = self.offset + sum((n - 1) * s for n, s in zip(self.sizes[1:], self.strides, strict=True))
        reach += self.sizes[0] * self.itemsize
        rank = len(self.sizes)
        conditions = {
            f"rank {rank}, not 1 to 5 of sizes, box and strides": 1 <= rank <= 5 and len(self.box) == rank,
            f"globalAddress at byte {self.offset}, no multiple of 16": self.offset % 16 == 0,
            f"globalDim {self.sizes}, not 1 to 2^32": all(1 <= n <= 2**32 for n in self.sizes),
            f"globalStrides {self.strides}, no multiples of 16 below 2^40": all(
                s % 16 == 0 and 0 <= s < 2**40 for s in self.strides
            ),
            f"boxDim {self.box}, not 1 to 256": all(1 <= n <= 256 for n in self.box),
            f"an inner box of {self.row_bytes} bytes, no multiple of 16": self.row_bytes % 16 == 0,
            f"an inner box of {self.row_bytes} bytes under a swizzle of {self.swizzle}": self.swizzle == NO_SWIZZLE
            or (self.swizzle in SWIZZLE_MASKS and self.row_bytes <= self.swizzle),
            f"reaches byte {reach} of a buffer of {buffer_bytes}": reach <= buffer_bytes,
        }
        for what, right in conditions.items():
            if not right:
                raise Fault(f"tensor map: {what}")

    def check_copy(self, coordinates: int, rank: int, address: int) -> None:
        """Check a copy by this map between global memory and this address of shared memory."""
        if not coordinates == rank == len(self.sizes):
            raise Fault(f"{coordinates} coordinates, a copy of {rank} dimensions, a tensor map of {len(self.sizes)}")
        if address % 128:
            raise Fault(f"TMA copies to or from {address:#x}, no multiple of 128")
        if self.swizzle != NO_SWIZZLE and self.row_bytes != self.swizzle:
            raise Fault(f"an inner box of {self.row_bytes} bytes under a swizzle of {self.swizzle} is not modelled")

    def view(self, buffer: np.ndarray) -> np.ndarray:
        """The tensor in a buffer of bytes, outermost dimension first."""
        flat = buffer[self.offset :]
        flat = flat[: len(flat) // self.itemsize * self.itemsize].view(self.dtype)
        return np.lib.stride_tricks.as_strided(flat, self.sizes[::-1], (*self.strides[::-1], self.itemsize))

    def load(self, view: np.ndarray, coordinates: list[int]) -> np.ndarray:
        """The box at these coordinates, as rows of bytes; zeros where it is outside."""
        out = np.zeros(self.box[::-1], view.dtype)
        of_tensor, of_box = self.overlap(coordinates)
        out[of_box] = view[of_tensor]
        return out.view(np.uint8).reshape(-1, self.row_bytes)

    def overlap(self, coordinates: list[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The part of the tensor that the box there covers, and the part of the box; coordinates may be negative."""
        of_tensor, of_box = [], []
        for at, n, size in zip(coordinates[::-1], self.box[::-1], self.sizes[::-1], strict=True):
            low = max(at, 0)
            high = max(low, min(at + n, size))
            of_tensor.append(slice(low, high))
            of_box.append(slice(low - at, high - at))
        return tuple(of_tensor), tuple(of_box)

    def chunks(self, address: int) -> np.ndarray:
        """The chunks of shared memory, [row, chunk of the row], that a box at this address lies in."""
        return _chunks(address, self.box_bytes // self.row_bytes, self.row_bytes, self.swizzle)


@functools.lru_cache(maxsize=4096)
def _chunks(address: int, rows: int, row_bytes: int, swizzle: int) -> np.ndarray:
    start = address + np.arange(rows)[:, None] * row_bytes + np.arange(row_bytes // 16)[None, :] * 16
    return swizzled(start, swizzle) >> 4


def swizzled(address: np.ndarray, swizzle: int) -> np.ndarray:
    """PTX ISA, "Tensors: Swizzling Modes": chunks of 16 bytes are permuted within 32, 64 or 128 by address bits from 7 on."""
    return address ^ (((address >> 7) & SWIZZLE_MASKS[swizzle]) << 4)

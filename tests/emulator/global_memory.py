"""The buffers of a launch, and which of their bytes were stored."""

from collections.abc import Mapping, Sequence

import numpy as np

from . import memory_map
from .arithmetic import UNSIGNED
from .faults import Fault
from .tensor_map import TensorMap


class GlobalMemory:
    """Global memory. All stores to an element must store the same: between blocks nothing orders two of them."""

    def __init__(self, buffers: Sequence[np.ndarray], maps: Mapping[int, TensorMap]):
        self.buffers, self.maps = buffers, maps
        self.stored = [np.zeros(len(buffer), np.uint8) for buffer in buffers]
        self.tensors: dict[int, np.ndarray] = {}
        self.stored_tensors: dict[int, np.ndarray] = {}
        for key, tensor_map in maps.items():
            tensor_map.validate(len(buffers[tensor_map.buffer]))
            self.tensors[key] = tensor_map.view(buffers[tensor_map.buffer])
            self.stored_tensors[key] = tensor_map.view(self.stored[tensor_map.buffer])

    def tensor_map(self, address: int) -> tuple[int, TensorMap]:
        """The tensor map at a generic address: by its offset in the parameter that holds them all."""
        key = address & ((1 << memory_map.PARAMETER_BITS) - 1)
        if address < memory_map.PARAMETERS or key not in self.maps:
            raise Fault(f"no tensor map at {address:#x}")
        return key, self.maps[key]

    def load_box(self, key: int, coordinates: list[int]) -> np.ndarray:
        return self.maps[key].load(self.tensors[key], coordinates)

    def store_box(self, key: int, coordinates: list[int], rows: np.ndarray) -> None:
        of_tensor, of_box = self.maps[key].overlap(coordinates)
        tensor, stored = self.tensors[key], self.stored_tensors[key]
        new = np.ascontiguousarray(rows).view(tensor.dtype).reshape(self.maps[key].box[::-1])[of_box]
        if ((stored[of_tensor] != 0) & (tensor[of_tensor] != new)).any():
            raise Fault(f"stores elements at {coordinates} again, with other values")
        tensor[of_tensor] = new
        stored[of_tensor] = np.iinfo(stored.dtype).max

    def locate(self, addresses: np.ndarray, size: int) -> tuple[int, np.ndarray]:
        """The buffer that these addresses are in, and their offsets there; `size` bytes are accessed at each."""
        buffer = int(addresses[0] >> memory_map.GLOBAL_BITS) - 1
        if not 0 <= buffer < len(self.buffers):
            raise Fault(f"global address {addresses[0]:#x} is in no buffer")
        offsets, limit = addresses - memory_map.of_buffer(buffer), len(self.buffers[buffer])
        if offsets.min() < 0 or offsets.max() + size > limit:
            raise Fault(f"bytes {offsets.min()}..{offsets.max() + size} of a buffer of {limit}")
        return buffer, offsets

    def load(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """An element of `size` bytes at each address."""
        buffer, offsets = self.locate(addresses, size)
        return _elements(self.buffers[buffer], size)[offsets // size]

    def store(self, addresses: np.ndarray, size: int, values: np.ndarray) -> None:
        buffer, offsets = self.locate(addresses, size)
        memory, stored, at = (
            _elements(self.buffers[buffer], size),
            _elements(self.stored[buffer], size),
            offsets // size,
        )
        memory[at[stored[at] == 0]] = values[stored[at] == 0]  # of several lanes at one place, one wins
        if (memory[at] != values).any():
            raise Fault("stores an element again, with another value")
        stored[at] = np.iinfo(stored.dtype).max


def _elements(buffer: np.ndarray, size: int) -> np.ndarray:
    return buffer[: len(buffer) // size * size].view(UNSIGNED[8 * size])

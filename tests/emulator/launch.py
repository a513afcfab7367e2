"""The launch of a kernel, as the host asks for it."""

import dataclasses

from .tensor_map import TensorMap

type Dim3 = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Launch:
    """cuLaunchKernelEx, with what was given to cuTensorMapEncodeTiled before.

    params  of each parameter of the kernel, the buffer that it points to, or None: the tensor maps
    maps    by their offset in that parameter
    """

    grid: Dim3
    cluster: Dim3
    block: Dim3
    dynamic_bytes: int
    params: tuple[int | None, ...]
    maps: dict[int, TensorMap]

"""Parts that the kernels share: their form, shared memory, boxes of an array, a ring of slots, chunks on their way out."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_conv.kernels import mosaic

from .. import stopwatch

type Kernel = Callable[..., tuple[Array, Array]]

COST = mosaic.CostEstimate(flops=0, transcendentals=0, bytes_accessed=0)
COLUMNS = 32  # of a chunk of an epilogue: `Config.columns`


def timed_kernel(
    name: str, body: Callable[..., None], out: Any, scratch: list[Any], blocks: int, interpret: bool,
    cluster: int = 1, threads: int = 1,
) -> Kernel:  # fmt: skip
    """Warpgroups of axis "thread", thread blocks of axis "block", in clusters of axis "cta" where these are more than one."""
    more: dict[str, Any] = {"cluster": (cluster,), "cluster_names": ("cta",)} if cluster > 1 else {}
    more |= {"num_threads": threads, "thread_name": "thread"} if threads > 1 else {}
    return mosaic.kernel(
        body, cost=COST, interpret=interpret, out_type=[out, stopwatch.out_type(blocks)], scratch_types=scratch,
        grid=(blocks // cluster,), grid_names=("block",), kernel_name=f"pallas_conv_micro_{name}", **more,
    )  # fmt: skip


def this_block(cluster: int = 1) -> Array:
    """The number of this thread block."""
    return lax.axis_index("block") * cluster + (lax.axis_index("cta") if cluster > 1 else 0)


def swizzled_rows(box: tuple[int, ...], lead: tuple[int, ...], dtype: Any, interpret: bool) -> Any:
    """Shared memory [*lead, *box], swizzled as wide as a row of the box is."""
    swizzle: Any = plgpu.SwizzleTransform(box[-1] * jnp.dtype(dtype).itemsize)  # type: ignore[abstract]
    return plgpu.SMEM((*lead, *box), dtype, transforms=() if interpret else (swizzle,))


def wgmma_matrix(rows: int, lead: tuple[int, ...], dtype: Any, interpret: bool) -> Any:
    """Shared memory [*lead, rows, 128 bytes], as wgmma reads it."""
    columns = 128 // jnp.dtype(dtype).itemsize
    tiles: Any = plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(128)  # type: ignore[abstract]
    return plgpu.SMEM((*lead, rows, columns), dtype, transforms=() if interpret else tiles)


# ------------------------------------------------------------ where boxes are


def window_of(index: Array, shape: tuple[int, ...], box: tuple[int, ...]) -> tuple[Any, ...]:
    """The window of the index-th box of an array that it divides, the last dimension fastest."""
    window: list[Any] = []
    for size, extent in reversed(list(zip(shape, box, strict=True))):
        many = size // extent
        window.append(mosaic.ds(lax.rem(index, jnp.int32(many)) * extent, extent))
        index = lax.div(index, jnp.int32(many))
    return tuple(reversed(window))


def following(at: Array, plan: Any, block: Array) -> Array:
    further = at + plan[block, 2]
    return jnp.where(further < plan[block, 3], further, plan[block, 1])


def cut(x: np.ndarray, box: tuple[int, ...], index: int) -> np.ndarray:
    """The index-th box of an array."""
    many = [size // extent for size, extent in zip(x.shape, box, strict=True)]
    at = np.unravel_index(index, many)
    return x[tuple(slice(i * extent, (i + 1) * extent) for i, extent in zip(at, box, strict=True))]


def visited(row: np.ndarray) -> list[int]:
    """The boxes that a block with this row of a plan loads, in order."""
    count, first, step, end = map(int, row)
    around = list(range(first, end, step))
    return [around[i % len(around)] for i in range(count)]


# ------------------------------------------------------------ slots, and chunks on their way out


class Ring:
    """Slots that a warpgroup fills: each with `copies` boxes of an array, or with their halves if a cluster shares them."""

    def __init__(self, x: Any, plan: Any, slots: Any, full: Any, block: Array, box: tuple[int, ...], cluster: int):
        self.x, self.plan, self.slots, self.full, self.block, self.box = x, plan, slots, full, block, box
        self.axes = "cta" if cluster > 1 else None

    def load(self, slot: Array, at: Array) -> None:
        copies = self.slots.shape[1]
        for c in range(copies):
            window = window_of(at * copies + c, self.x.shape, self.box)
            mosaic.copy_gmem_to_smem(
                self.x.at[window], self.slots.at[slot, c], self.full.at[slot], collective_axes=self.axes
            )


def next_slot(slot: Array, slots: int) -> Array:
    return jnp.where(slot == slots - 1, 0, slot + 1)


def all_stored() -> None:
    """Waits: stores to the same place in global memory have no order of their own."""
    mosaic.wait_smem_to_gmem(0)


def staging(pixels: int, lead: tuple[int, ...], interpret: bool) -> Any:
    """Shared memory for chunks on their way out, as registers write it."""
    tiles: Any = plgpu.TilingTransform((8, COLUMNS)), plgpu.SwizzleTransform(2 * COLUMNS)  # type: ignore[abstract]
    return plgpu.SMEM((*lead, pixels, COLUMNS), jnp.bfloat16, transforms=() if interpret else tiles)


def stage(chunk: Array, staged: Any, target: Any, buffers: int, read_only: bool = True) -> None:
    """Store a chunk from registers to global memory, through a buffer.

    First wait until the store of `buffers` chunks ago has read its buffer, or, without read_only, is done.
    """
    mosaic.wait_smem_to_gmem(buffers - 1, wait_read_only=read_only)
    staged[...] = chunk.astype(jnp.bfloat16)
    mosaic.commit_smem()
    mosaic.copy_smem_to_gmem(staged, target)

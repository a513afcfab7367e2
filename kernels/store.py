"""A tile on its way out of a kernel: bias, residual and activation added in registers, then stored by TMA, chunk by chunk."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from . import mosaic as mgpu
from .epilogue import Epilogue
from .views import lines


@dataclasses.dataclass(frozen=True)
class Staging:
    """The way that tiles leave a kernel, as static numbers.

    box       (*pixels) of a consumer's tile, as TMA has it
    columns   channels of a chunk, staged at a time, so that few registers live
    chunks    chunks of a tile
    buffers   staging buffers of a consumer, which all stores of all its tiles take in turn
    """

    box: tuple[int, ...]
    columns: int
    chunks: int
    buffers: int
    epilogue: Epilogue
    dtype: Any
    interpret: bool

    @property
    def outputs(self) -> int:
        """Number of arrays that a chunk is stored in."""
        return len(self.epilogue.outputs)

    @property
    def ahead(self) -> int:
        """Number of chunks by which a residual is loaded ahead: as many as there are buffers to spare."""
        return min((self.buffers - 1) // self.outputs, self.chunks)

    def buffers_type(self, consumers: int) -> Any:
        """The type of the buffers in shared memory."""
        leading = consumers, self.buffers
        return mgpu.two_views(leading, self.box, self.columns, self.dtype, interpret=self.interpret)

    def residual_barriers(self, consumers: int) -> Any:
        """The type of the barriers of a residual, one a buffer."""
        return mgpu.Barrier(num_barriers=consumers * self.buffers)


class Buffers(NamedTuple):
    """The staging buffers [consumers, buffers, *box, columns] under both views, and the barriers of a residual, if any."""

    tma: Any
    mma: Any
    residual_full: Any


class Destination(NamedTuple):
    """The place of a tile in global memory.

    bias, residual  operands, or None
    outs            results, in the order of the epilogue's outputs
    window          indices of the tile in a result, and in the residual: all but the channels
    group           whose bias it is
    n_tile          which tile of channels it is
    """

    bias: Any
    residual: Any
    outs: tuple[Any, ...]
    window: tuple[Any, ...]
    group: Array
    n_tile: Array


class TileStore:
    """Adds bias and residual to a tile, activates and stores it.

    A chunk of the residual is loaded into the staging buffer that the chunk's first output will take: the first chunk while the
    tile is still multiplied, later ones as far ahead as buffers are to spare. With one output, two buffers, and residuals r:

        consumer    multiplies    chunk 0             chunk 1             chunk 2
        buffer 0    r0 arrives    + r0, is stored     r2 arrives          + r2, is stored
        buffer 1                  r1 arrives          + r1, is stored     r3 arrives

    A buffer is loaded or written once the store before has read it. Stores are read in order, so it is enough to wait until
    few enough of them are under way.
    """

    def __init__(self, staging: Staging, shared: Buffers, to: Destination, i: Array, wg_idx: Array):
        """i: the number of the tile among its consumer's."""
        self.staging, self.shared, self.to, self.i, self.wg_idx = staging, shared, to, i, wg_idx
        self.lines = lines(staging.box)

    def prefetch_residual(self) -> None:
        """Load the first chunks of the residual, once a tile."""
        if self.to.residual is not None:
            for chunk in range(max(1, self.staging.ahead)):
                self._load_residual(chunk, stored=0)

    def store(self, acc: Array) -> None:
        """Store the sums [pixels, channels] of the tile."""
        columns, stores = self.staging.columns, itertools.count()
        for chunk in range(self.staging.chunks):
            channels = self._channels(chunk)
            at = (*self.to.window, channels)
            z = acc[:, chunk * columns : (chunk + 1) * columns]
            if self.to.bias is not None:
                row = mgpu.load(
                    self.to.bias.at[self.to.group, channels], layout=mgpu.Layout.WGMMA.reduce(0), optimized=False
                )
                z = z + lax.broadcast_in_dim(row, z.shape, (1,))
            if self.to.residual is not None:
                z = z + self._residual(chunk).astype(z.dtype)
            for output, value in self.staging.epilogue(z, self.staging.dtype):
                store = next(stores)
                if (
                    self.to.residual is None or store % self.staging.outputs
                ):  # else the residual's buffer, which is free
                    self._wait_until_free(store, stored=store)
                buffer = self._buffer(store)
                self._stage(buffer, value)
                mgpu.commit_smem()
                mgpu.copy_smem_to_gmem(self.shared.tma.at[buffer], self.to.outs[output].at[at])

    def _residual(self, chunk: int) -> Array:
        """The residual of a chunk. It also starts to load a later one."""
        staging = self.staging
        if staging.ahead == 0 and chunk > 0:
            self._load_residual(chunk, stored=chunk * staging.outputs)
        buffer = self._buffer(chunk * staging.outputs)
        mgpu.barrier_wait(self._residual_barrier(buffer))
        residual = self._staged(buffer)
        if 0 < staging.ahead < staging.chunks - chunk:
            self._load_residual(chunk + staging.ahead, stored=chunk * staging.outputs)
        return residual

    def _channels(self, chunk: int) -> Any:
        """The channels of a chunk."""
        first = self.to.n_tile * (self.staging.chunks * self.staging.columns) + chunk * self.staging.columns
        return mgpu.ds(first, self.staging.columns)

    def _load_residual(self, chunk: int, stored: int) -> None:
        """Load a chunk of the residual. stored: the number of stores of this tile that have begun."""
        store = chunk * self.staging.outputs
        self._wait_until_free(store, stored)
        buffer = self._buffer(store)
        mgpu.copy_gmem_to_smem(
            self.to.residual.at[(*self.to.window, self._channels(chunk))],
            self.shared.tma.at[buffer],
            barrier=self._residual_barrier(buffer),
            oob_mode=mgpu.OOBFillMode.ZEROS,
        )

    def _residual_barrier(self, at: tuple[Any, Any]) -> Any:
        wg_idx, buffer = at
        return self.shared.residual_full.at[wg_idx * self.staging.buffers + buffer]

    def _buffer(self, store: int) -> tuple[Array, Any]:
        """The staging buffer of this tile's store of that number. All stores of all tiles take the buffers in turn."""
        buffers, per_tile = self.staging.buffers, self.staging.chunks * self.staging.outputs
        if per_tile % buffers == 0:  # every tile starts with the first buffer
            return self.wg_idx, store % buffers
        return self.wg_idx, lax.rem(self.i * per_tile + store % buffers, jnp.int32(buffers))

    def _wait_until_free(self, store: int, stored: int) -> None:
        """Wait until a store of this tile may use its buffer. stored: the number of stores of this tile that have begun."""
        mgpu.wait_smem_to_gmem(self.staging.buffers - 1 - (store - stored), wait_read_only=True)

    def _staged(self, at: tuple[Any, Any]) -> Array:
        """The contents of a staging buffer."""
        if self.staging.interpret:
            return jnp.concatenate([self.shared.tma[(*at, *index)] for _, index in self.lines])
        return mgpu.load(self.shared.mma.at[at], layout=mgpu.Layout.WGMMA)

    def _stage(self, at: tuple[Any, Any], value: Array) -> None:
        if self.staging.interpret:
            for pixel, index in self.lines:
                self.shared.tma[(*at, *index)] = value[pixel : pixel + self.staging.box[-1]]
        else:
            self.shared.mma[at] = value

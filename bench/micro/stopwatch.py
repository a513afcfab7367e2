"""Clocks and nanoseconds inside a kernel, from the registers that count them: what a second is in clocks, under that load."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu

THREADS = 128  # of a warpgroup, each of which reads for itself


def out_type(blocks: int) -> jax.ShapeDtypeStruct:
    """Clocks and nanoseconds that passed in each block, by thread."""
    return jax.ShapeDtypeStruct((blocks, 2, THREADS), jnp.int32)


def start(interpret: bool) -> tuple[Array, Array] | None:
    """The time. The interpreter has none."""
    return None if interpret else _read()()


def stop(started: tuple[Array, Array] | None, watch: Any, block: Any) -> None:
    """Write how much has passed in a block; zeros under the interpreter."""
    passed = [jnp.zeros(THREADS, jnp.int32)] * 2
    if started is not None:
        passed = [now - then for now, then in zip(_read()(), started, strict=True)]  # right across an overflow, too
    for i, values in enumerate(passed):
        watch[block, i] = values


def gigahertz(watch: np.ndarray) -> float:
    """The clock, by the block that was busy longest; NaN where no time was read."""
    busiest = watch[:, 1, 0].argmax()
    clocks, nanoseconds = watch[busiest, :, 0]
    return float(clocks / nanoseconds) if nanoseconds else float("nan")


def most_clocks(watch: np.ndarray) -> int:
    """Clocks of the block that was busy longest."""
    return int(watch[:, 0, 0].max())


def most_nanoseconds(watch: np.ndarray) -> int:
    return int(watch[:, 1, 0].max())


def _read() -> Any:
    kind = plgpu.ShapeDtypeStruct((THREADS,), jnp.int32, layout=plgpu.Layout.WG_STRIDED((THREADS,), vec_size=1))

    def read(_context: Any) -> tuple[Any, Any]:
        return _each(mgpu.utils.clock()), _each(mgpu.utils.globaltimer("low"))

    return plgpu.inline_mgpu(return_type=(kind, kind))(read)


def _each(register: Any) -> Any:
    layout = mgpu.WGStridedFragLayout((THREADS,), vec_size=1)
    return mgpu.FragmentedArray.splat(register, (THREADS,), layout, is_signed=True)

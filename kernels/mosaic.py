"""The one seam to Pallas and Mosaic GPU: the names the kernels use, what differs between versions, the interpreter.

Mosaic GPU is experimental and moves between releases; JAX 0.11.2 and 0.12.0 are supported.
"""

import contextlib
import functools
import inspect
import io
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import CostEstimate as CostEstimate
from jax.experimental.pallas import ds as ds
from jax.experimental.pallas import mosaic_gpu
from jax.experimental.pallas import run_scoped as run_scoped
from jax.experimental.pallas import when as when
from jax.experimental.pallas.mosaic_gpu import (
    ACC,
    SMEM,
    Barrier,
    ClusterBarrier,
    CompilerParams,
    InterpretGPUParams,
    Layout,
    LoweringSemantics,
    OOBFillMode,
    RefUnion,
    SwizzleTransform,
    Tiling,
    TilingTransform,
    barrier_arrive,
    barrier_wait,
    commit_smem,
    copy_gmem_to_smem,
    copy_smem_to_gmem,
    force_gpu_interpret_mode,
    layout_cast,
    load,
    wait_smem_to_gmem,
    wgmma,
    wgmma_wait,
)
from jax.experimental.pallas.mosaic_gpu import kernel as _kernel

__all__ = [
    "ACC",
    "SMEM",
    "Barrier",
    "ClusterBarrier",
    "CostEstimate",
    "Layout",
    "OOBFillMode",
    "RaceError",
    "barrier_arrive",
    "barrier_wait",
    "commit_smem",
    "copy_gmem_to_smem",
    "copy_smem_to_gmem",
    "ds",
    "kernel",
    "layout_cast",
    "load",
    "run_interpreted",
    "run_scoped",
    "store",
    "swizzled",
    "tiled_layout",
    "two_views",
    "wait_smem_to_gmem",
    "wgmma",
    "wgmma_wait",
    "when",
    "zero_rows",
]

_store: Any = getattr(mosaic_gpu, "store", None)  # since JAX 0.12


def kernel(body: Callable[..., None], *, cost: CostEstimate, interpret: bool, **kwargs: Any) -> Callable[..., Any]:
    """A Mosaic GPU kernel under Lane semantics with explicit barriers, or the same kernel in the interpreter."""
    if "cost_estimate" in inspect.signature(_kernel).parameters:  # since JAX 0.12
        kwargs["cost_estimate"] = cost
    params = CompilerParams(lowering_semantics=LoweringSemantics.Lane, unsafe_no_auto_barriers=True)
    how = InterpretGPUParams() if interpret else None
    return _kernel(body, compiler_params=params, interpret=how, **kwargs)


def two_views(leading: tuple[int, ...], box: tuple[int, ...], columns: int, dtype: Any, *, interpret: bool) -> Any:
    """Shared memory [*leading, *box, columns], as boxes for TMA and as tiled matrices for wgmma: one buffer, two views.

    TMA must start at any pixel, which tiles of (8, columns) would forbid: its view is only swizzled. wgmma wants such
    tiles of a matrix [*leading, prod(box), columns]. With `columns` as wide as the swizzle, a tile is eight whole rows,
    so tiling moves nothing and both views address the same bytes (tests/kernels/test_shared_memory_views.py proves it).
    The interpreter keeps members of a union apart, and has no swizzle: there, both names mean the one plain buffer.
    """
    plain = functools.partial(SMEM, (*leading, *box, columns), dtype)
    if interpret:
        return plain()
    swizzle: Any = SwizzleTransform(columns * dtype.itemsize)  # type: ignore[abstract]
    tiling: Any = TilingTransform((8, columns))  # type: ignore[abstract]
    matrix = SMEM((*leading, math.prod(box), columns), dtype, transforms=(tiling, swizzle))
    return RefUnion(plain(transforms=(swizzle,)), matrix)


def swizzled(shape: tuple[int, ...], dtype: Any, *, interpret: bool) -> Any:
    """Shared memory [..., columns] of 32, 64 or 128 bytes of columns, swizzled against bank conflicts between rows.

    The interpreter has no swizzle.
    """
    if interpret:
        return SMEM(shape, dtype)
    swizzle: Any = SwizzleTransform(shape[-1] * dtype.itemsize)  # type: ignore[abstract]
    return SMEM(shape, dtype, transforms=(swizzle,))


def tiled_layout(tile: tuple[int, int], of_warp: tuple[int, int], lanes: tuple[int, ...], together: int) -> Any:
    """The layout of a `tile` of rows and columns in registers: split into the warps' parts, then into those of lanes.

    together: neighbours in a row that a lane has in one register. lanes: the dimensions of a warp's part that the lanes divide,
    counted from the last, which are (rows, columns / together, together).
    """
    return Layout.TILED(Tiling((tile, of_warp, (together,))), (-5,), lanes, -1)


def zero_rows(rows: int, *, interpret: bool) -> jax.Array:
    """Zeros, float32, with the layout that sums of an accumulator's rows have: what a loop carries must begin with it."""
    zeros = jnp.zeros(rows, jnp.float32)
    return zeros if interpret else layout_cast(zeros, Layout.WGMMA.reduce(1))


def store(
    ref: Any, where: tuple[Any, ...], value: jax.Array, *, interpret: bool, in_shared_memory: bool = False
) -> None:
    """Write sums of products to ref[where], each thread those that it holds.

    JAX 0.12 refuses two kinds of stores unless told that they need not be optimized. Four threads hold neighbours: of 16-bit
    numbers that go to global memory these are 16 bytes, half a sector, which the next column's store fills. And 32-bit numbers
    that go to shared memory meet in banks, as far as its swizzle does not keep them apart.
    """
    if _store is None or interpret or (in_shared_memory and value.dtype.itemsize == 2):
        ref[where] = value
    else:
        _store(ref.at[where], value, optimized=False)


class RaceError(AssertionError):
    """The interpreter saw two unordered accesses of the same memory; the message is its report."""


def run_interpreted(f: Callable[..., Any], *args: Any, detect_races: bool = False, **kwargs: Any) -> Any:
    """f(*args, **kwargs) with every kernel in it interpreted on the CPU; RaceError if a race is detected.

    The interpreter's memory is global to the process, so one caller at a time. JAX 0.11 reports races on stdout only,
    which is read meanwhile, and passed on.
    """
    printed = io.StringIO()
    listening = contextlib.redirect_stdout(printed) if detect_races else contextlib.nullcontext()
    try:
        with force_gpu_interpret_mode(InterpretGPUParams(detect_races=detect_races)), listening:
            out = jax.block_until_ready(f(*args, **kwargs))
    except BaseException as error:
        _forget_interpretation()  # or the next one finds the memory of this
        if "RACE DETECTED" in str(error):  # JAX 0.12 raises
            raise RaceError(str(error)) from error
        raise
    finally:
        print(printed.getvalue(), end="")
    if "RACE DETECTED" in printed.getvalue():
        raise RaceError(printed.getvalue())
    return out


def _forget_interpretation() -> None:
    """Reset the interpreter. JAX asks for this after an exception, but has no public name for it."""
    with contextlib.suppress(ImportError):
        from jax._src.pallas.mosaic_gpu.interpret.gpu_callbacks import reset_gpu_interpret_mode_state

        reset_gpu_interpret_mode_state()

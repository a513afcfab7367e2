"""Matrix products by kernels whose layouts are Mosaic's own: what the emulator is held against.

They prove what it assumes of descriptors, swizzles, fragments and tensor maps, for every order, type and swizzle of the
operands, and for what kernels to come need: A from registers, ldmatrix, mma.sync, cp.async, plain stores.
"""

import dataclasses
import functools
import pathlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_conv.kernels import mosaic
from pallas_conv.verify.reference import truncated_to_tf32

from .capture import Captured, capture
from .emulate import Emulation, emulation

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Hopper:
    """[64, 128] @ [128, 128] by wgmma: operands stored as they are, or transposed; A from registers if it is loaded first."""

    dtype: str
    swizzle: int = 128
    a_transposed: bool = False
    b_transposed: bool = False
    a_in_registers: bool = False

    def __str__(self) -> str:
        a = ("A^T" if self.a_transposed else "A") + (" in registers" if self.a_in_registers else "")
        return f"{self.dtype}, swizzle {self.swizzle}, {a} @ {'B^T' if self.b_transposed else 'B'}"

    def kernel(self, a: jax.Array, b: jax.Array) -> jax.Array:
        transforms = _tiled(self.swizzle // a.dtype.itemsize, self.swizzle)
        rows, columns = a.shape[self.a_transposed], b.shape[not self.b_transposed]

        def body(a_gmem, b_gmem, out_gmem, a_smem, b_smem, out_smem, barrier):
            mosaic.copy_gmem_to_smem(a_gmem, a_smem, barrier=barrier)
            mosaic.copy_gmem_to_smem(b_gmem, b_smem, barrier=barrier)
            mosaic.barrier_wait(barrier)

            def multiply(acc):
                left = a_smem.T if self.a_transposed else a_smem
                right = b_smem.T if self.b_transposed else b_smem
                if self.a_in_registers:
                    left = mosaic.load(left, layout=plgpu.Layout.WGMMA)
                mosaic.wgmma(acc, left, right)
                mosaic.wgmma_wait(0)
                return acc[...]

            out_smem[...] = mosaic.run_scoped(multiply, mosaic.ACC((rows, columns), jnp.float32))
            mosaic.commit_smem()
            mosaic.copy_smem_to_gmem(out_smem, out_gmem)
            mosaic.wait_smem_to_gmem(0)

        scratch = [
            plgpu.SMEM(a.shape, a.dtype, transforms=transforms),
            plgpu.SMEM(b.shape, b.dtype, transforms=transforms),
            plgpu.SMEM((rows, columns), jnp.float32, transforms=_tiled(32, 128)),
            mosaic.Barrier(num_arrivals=2),
        ]
        (out,) = mosaic.kernel(
            body,
            out_type=[jax.ShapeDtypeStruct((rows, columns), jnp.float32)],
            grid=(1,),
            grid_names=("x",),
            scratch_types=scratch,
            kernel_name="matmul",
            cost=mosaic.CostEstimate(flops=1, transcendentals=0, bytes_accessed=1),
            interpret=False,
        )(a, b)
        return out

    def run(self, damage: Callable[[str], str] | None = None, timing: tuple[str, int] = ("random", 0)) -> "Product":
        a, b = _operands(self.dtype, (64, 128), (128, 128))
        stored = (a.T if self.a_transposed else a), (b.T if self.b_transposed else b)
        with emulation(self, damage=damage, timing=timing) as ran:
            return Product(self.kernel(*map(jnp.asarray, stored)), a, b, ran)


@dataclasses.dataclass(frozen=True)
class Ampere:
    """[128, 256] @ [256, 64] for sm_80: cp.async into a ring of two stages, ldmatrix, mma.sync, stores from registers."""

    dtype: str
    STEP, STAGES, SHAPES = 64, 2, ((128, 256), (256, 64))

    def __str__(self) -> str:
        return f"{self.dtype}, sm_80"

    def kernel(self, a: jax.Array, b: jax.Array) -> jax.Array:
        m, n, steps = a.shape[0], b.shape[1], a.shape[1] // self.STEP

        def body(a_gmem, b_gmem, out_gmem, a_smem, b_smem):
            rows = mosaic.ds(jax.lax.axis_index("m") * 64, 64)

            def fetch(step):
                along = mosaic.ds(step * self.STEP, self.STEP)
                for source, target in ((a_gmem.at[rows, along], a_smem), (b_gmem.at[along], b_smem)):
                    in_bounds = plgpu.OOBFillMode.PROMISE_IN_BOUNDS
                    plgpu.copy_gmem_to_smem(source, target.at[step % self.STAGES], oob_mode=in_bounds)

            acc = plgpu.layout_cast(jnp.zeros((64, n), jnp.float32), plgpu.Layout.MMA_ACC(a.dtype))
            for step in range(self.STAGES):
                fetch(step)
            for step in range(steps):
                plgpu.wait_gmem_to_smem(2 * (self.STAGES - 1) if step + self.STAGES <= steps else 0)
                left = plgpu.load(a_smem.at[step % self.STAGES], layout=plgpu.Layout.MMA_LHS(a.dtype))
                right = plgpu.load(b_smem.at[step % self.STAGES], layout=plgpu.Layout.MMA_RHS(a.dtype), optimized=False)
                acc = plgpu.mma(acc, left, right)
                if step + self.STAGES < steps:
                    fetch(step + self.STAGES)  # after a barrier of Mosaic's: all threads have read the slot
            out_gmem[rows] = acc

        scratch = [
            plgpu.SMEM((self.STAGES, 64, self.STEP), a.dtype, transforms=_tiled(64, 128)),
            plgpu.SMEM((self.STAGES, self.STEP, n), a.dtype, transforms=_tiled(64, 128)),
        ]
        return plgpu.kernel(
            body,
            out_type=jax.ShapeDtypeStruct((m, n), jnp.float32),
            grid=(m // 64,),
            grid_names=("m",),
            scratch_types=scratch,
            compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        )(a, b)

    def run(self, damage: Callable[[str], str] | None = None, timing: tuple[str, int] = ("random", 0)) -> "Product":
        a, b = _operands(self.dtype, *self.SHAPES)
        captured = _compiled_elsewhere(self)
        with emulation(captured=captured, damage=damage, timing=timing, module=plgpu) as ran:
            return Product(self.kernel(jnp.asarray(a), jnp.asarray(b)), a, b, ran)

    def compile(self, file: str) -> None:
        """Compile the case into a file. Lowering without a device assumes 9.0, and asks this private function."""
        with mock.patch.object(utils, "_infer_arch", return_value=(8, 0)):
            captured = capture(self.kernel, [jax.ShapeDtypeStruct(s, self.dtype) for s in self.SHAPES], "a100")
        pathlib.Path(file).write_bytes(pickle.dumps(captured))


@functools.cache
def _compiled_elsewhere(case: Ampere) -> Captured:
    """A capture from a process of its own: once jaxlib 0.11.2 has compiled for sm_80, it fails to for sm_90a."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "captured"
        code = f"from tests.emulator.matmuls import Ampere; Ampere({case.dtype!r}).compile({str(file)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=200)
        return pickle.loads(file.read_bytes())


@dataclasses.dataclass(frozen=True)
class Product:
    out: jax.Array
    a: np.ndarray
    b: np.ndarray
    ran: Emulation

    @property
    def error(self) -> float:
        """The largest, against float64 of what tensor cores read."""
        read = lambda x: (truncated_to_tf32(x) if x.dtype == np.float32 else x).astype(np.float64)
        return float(np.abs(np.asarray(self.out) - read(self.a) @ read(self.b)).max())


def hopper() -> list[Hopper]:
    """TF32 takes K-major operands only (wgmma.mma_async: imm-trans is of 16 bits), which for B is transposed."""
    orders = [(False, False), (False, True), (True, False), (True, True)]
    return [
        Hopper(dtype, swizzle, a_transposed, b_transposed)
        for dtype in ("bfloat16", "float16", "float32")
        for swizzle in (128, 64, 32)
        for a_transposed, b_transposed in orders
        if dtype != "float32" or (not a_transposed and b_transposed)
    ]


def _tiled(columns: int, swizzle: int) -> tuple[Any, ...]:
    tiling: Any = plgpu.TilingTransform((8, columns))  # type: ignore[abstract]
    permuted: Any = plgpu.SwizzleTransform(swizzle)  # type: ignore[abstract]
    return tiling, permuted


def _operands(dtype: str, *shapes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.asarray(jnp.asarray(rng.standard_normal(shape), dtype)) for shape in shapes]

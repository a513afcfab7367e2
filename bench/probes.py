"""Questions that only hardware answers: each probe is a tiny Mosaic kernel, its operands, and what it must return.

The kernels lean on behaviour that the interpreter does not show: TMA boxes that start or end outside the array, two
shared-memory views of the same bytes, multicast, stores that clip. Each probe writes what it saw; NumPy says what it
should have seen. Shared memory is filled with NaN first (by TMA, which knows every layout), so a load that moved nothing,
or too little, cannot pass.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_conv.kernels.mosaic import two_views

PARAMS = plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane, unsafe_no_auto_barriers=True)


@dataclasses.dataclass(frozen=True)
class Probe:
    """`kernel(interpret)` gives a function of `operands` that must return `expected`.

    interpretable: the interpreter is right about it too (it blanks a box that starts before the array).
    """

    name: str
    kernel: Callable[[bool], Callable[..., jax.Array]]
    operands: tuple[np.ndarray, ...]
    expected: np.ndarray
    interpretable: bool = True


def check(probe: Probe, interpret: bool = False) -> tuple[str, bool, str]:
    """Run a probe: its name, whether it passed, and where it first differs."""
    return probe.name, *compare(probe, np.asarray(jax.jit(probe.kernel(interpret))(*probe.operands)))


def compare(probe: Probe, got: np.ndarray) -> tuple[bool, str]:
    """Say whether a probe passed that returned this, and where it first differs."""
    got, want = got.astype(np.float32), probe.expected.astype(np.float32)
    if got.shape != want.shape:
        return False, f"returned {got.shape}, not {want.shape}"
    wrong = ~((got == want) | (np.isnan(got) & np.isnan(want)))
    if not wrong.any():
        return True, f"{wrong.size} elements"
    at = tuple(map(int, np.argwhere(wrong)[0]))
    return False, f"{int(wrong.sum())} of {wrong.size} differ, first at {at}: {got[at]} instead of {want[at]}"


def kernel(body, out, scratch, grid=1, cluster=1, interpret=False):
    """One warpgroup a block; axis "block" of `grid`, and "cta" of `cluster` where there is one."""
    cluster_args = {"cluster": (cluster,), "cluster_names": ("cta",)} if cluster > 1 else {}
    launch = plgpu.kernel(
        body, out_type=jax.ShapeDtypeStruct(*out), grid=(grid,), grid_names=("block",), scratch_types=scratch,
        compiler_params=PARAMS, **cluster_args,
    )  # fmt: skip

    def run(*operands):
        if not interpret:
            return launch(*operands)
        with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True)):
            return launch(*operands)

    return run


def numbers(shape, dtype, seed=0) -> np.ndarray:
    """Small nonzero integers: exact in every dtype, and an element of a neighbouring row cannot pass for another's."""
    values = np.random.default_rng(seed).integers(1, 100, shape) * np.random.default_rng(seed + 1).choice(
        [-1, 1], shape
    )
    return values.astype(dtype)


def nans(*box) -> np.ndarray:
    return np.full(box, np.nan, jnp.bfloat16)


def fetch(source, target, barrier, **how):
    plgpu.copy_gmem_to_smem(source, target, barrier, **how)
    plgpu.barrier_wait(barrier)


def cut(x: np.ndarray, at: tuple[Any, ...], box: tuple[int, ...]) -> np.ndarray:
    """x[at] with zeros outside; `at` holds a start for each dimension of the box and ("i", index) for the others."""
    index, grids, inside = [], iter(np.indices(box)), True
    for a, size in zip(at, x.shape, strict=True):
        position = a[1] if isinstance(a, tuple) else a + next(grids)
        inside = inside & (position >= 0) & (position < size)
        index.append(np.clip(position, 0, size - 1))
    return np.where(inside, x[tuple(index)], 0).astype(x.dtype)


# ------------------------------------------------------------ boxes outside the array


def boxes(name, shape, box, indexed, starts, swizzle=None, interpretable=False) -> Probe:
    """One box a block at run-time starts; the dimensions in `indexed` are indexed by an integer instead."""
    x, dtype = numbers(shape, jnp.bfloat16), jnp.bfloat16
    transforms = (plgpu.SwizzleTransform(swizzle),) if swizzle else ()

    def build(interpret):
        def body(x_gmem, starts_gmem, nan_gmem, out_gmem, smem, barrier):
            block = lax.axis_index("block")
            fetch(nan_gmem, smem, barrier)
            start = [starts_gmem[block, i] for i in range(len(shape))]
            extent = iter(box)
            where = [s if i in indexed else pl.ds(s, next(extent)) for i, s in enumerate(start)]
            fetch(x_gmem.at[tuple(where)], smem, barrier, oob_mode=plgpu.OOBFillMode.ZEROS)
            plgpu.copy_smem_to_gmem(smem, out_gmem.at[block])
            plgpu.wait_smem_to_gmem(0)

        scratch = [plgpu.SMEM(box, dtype, transforms=() if interpret else transforms), plgpu.Barrier()]
        return kernel(body, ((len(starts), *box), dtype), scratch, grid=len(starts), interpret=interpret)

    at = [tuple(("i", s) if i in indexed else s for i, s in enumerate(start)) for start in starts]
    expected = np.stack([cut(x, a, box) for a in at])
    return Probe(name, build, (x, np.array(starts, np.int32), nans(*box)), expected, interpretable)


def around(shape, box, indexed, low: bool) -> list[tuple[int, ...]]:
    """Starts that leave the array in one dimension at a time, then in all: before it (low) or past its end."""
    sizes = [0 if i in indexed else box[i - sum(j < i for j in indexed)] for i in range(len(shape))]
    free = [i for i in range(len(shape) - 1) if i not in indexed]  # the last dimension holds channels
    home = [min(1, n - 1) if i in indexed else 0 for i, n in enumerate(shape)]
    beyond = [-((b + 1) // 2) if low else n - b // 2 for n, b in zip(shape, sizes, strict=True)]
    lists = [[i] for i in free] + [free]
    starts = [tuple(home)] + [tuple(beyond[i] if i in out else home[i] for i in range(len(shape))) for out in lists]
    gone = [-s if low else n for n, s in zip(shape, sizes, strict=True)]  # the whole box outside
    return [*starts, tuple(gone[i] if i == free[0] else home[i] for i in range(len(shape)))]


def out_of_bounds() -> list[Probe]:
    arrays = {
        "3d": ((3, 9, 64), (2, 8, 64), ()),
        "4d": ((3, 6, 9, 64), (2, 4, 8, 64), ()),
        "5d": ((3, 3, 6, 9, 64), (1, 2, 4, 8, 64), ()),
        "5d_indexed": ((3, 6, 9, 2, 64), (2, 4, 8, 64), (3,)),
        "5d_image_indexed": ((3, 4, 6, 9, 64), (2, 4, 8, 64), (0,)),
    }
    probes = []
    for (key, (shape, box, indexed)), low in itertools.product(arrays.items(), (True, False)):
        starts = around(shape, box, indexed, low)
        side = "before" if low else "past"
        probes.append(boxes(f"oob_{side}_{key}", shape, box, indexed, starts, 128, interpretable=not low))
    # Channels: the innermost dimension runs out, where swizzling and the row's end meet.
    probes.append(
        boxes("oob_past_channels", (3, 9, 72), (2, 8, 64), (), [(0, 0, 0), (1, 2, 64), (2, 4, 64)], 128, True)
    )
    return probes


def collapsed() -> list[Probe]:
    """Probes of more than five dimensions: Mosaic folds the integer-indexed ones into one, and checks the bounds of that alone.

    A strided convolution asks for them: (N, H/s, s, W/s, s, G, C). The box must still be clipped in its own dimensions,
    and be empty where it lies outside in one. The kernels let no integer run out.
    """
    strided, box = (2, 5, 2, 9, 2, 2, 64), (1, 4, 8, 64)
    indexed = (2, 4, 5)
    inside = [(n, 0, a, 0, b, g, 0) for n, a, b, g in itertools.product(range(2), repeat=4)]
    edges = [(1, h, 1, w, 0, 1, 0) for h, w in ((-1, 0), (0, -3), (-2, -5), (3, 4), (-4, 0), (0, -8))]
    past = [(1, h, 1, w, 0, 1, 0) for h, w in ((2, 0), (0, 5), (3, 7), (5, 0), (0, 9))] + [(2, 0, 0, 0, 0, 0, 0)]
    volume, image = (2, 3, 2, 5, 2, 9, 2, 64), (2, 4, 8, 64)
    gone = [(n, d, 1, 0, 1, 0, 1, 0) for n in (0, 1) for d in (0, 2, 3)]
    return [
        boxes("collapsed_inside", strided, box, indexed, inside, 128, True),
        boxes("collapsed_before", strided, box, indexed, edges, 128, False),
        boxes("collapsed_past", strided, box, indexed, past, 128, True),
        boxes("collapsed_volume_past", volume, image, (0, 2, 4, 6), gone, 128, True),
    ]


def dropped() -> list[Probe]:
    """Axes of which array and box have one: Mosaic drops them with their index, which the kernels keep at 0.

    What must read nothing is moved outside along another axis.
    """
    arrays = {
        "image": ((1, 6, 9, 64), (1, 4, 8, 64)),
        "pixels": ((9, 1, 1, 64), (8, 1, 1, 64)),
        "depth": ((1, 1, 6, 9, 64), (1, 1, 4, 8, 64)),
    }
    probes = []
    for (key, (shape, box)), low in itertools.product(arrays.items(), (True, False)):
        free = [i for i, n in enumerate(shape[:-1]) if n > 1]
        half = [-((b + 1) // 2) if low else n - b // 2 for n, b in zip(shape, box, strict=True)]
        gone = [-b if low else n for n, b in zip(shape, box, strict=True)]
        moved = [(None, half), *((i, half) for i in free), (free[-1], gone)]
        starts = [tuple(start[i] if i == axis else 0 for i in range(len(shape))) for axis, start in moved]
        name = f"dropped_{key}_{'before' if low else 'past'}"
        probes.append(boxes(name, shape, box, (), starts, 128, interpretable=not low))
    return probes


# ------------------------------------------------------------ two views of the same bytes


def identity(columns, dtype, interpret):
    """Scratch for a matrix that wgmma multiplies by, K-major."""
    tiled = (plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(columns * jnp.dtype(dtype).itemsize))
    return plgpu.SMEM((columns, columns), dtype, transforms=() if interpret else tiled)


def view_load(box, bk_bytes, move=0) -> Probe:
    """TMA fills one view, wgmma multiplies the other by the identity, from `move` lines further on."""
    dtype, columns = jnp.bfloat16, bk_bytes // 2
    line, pixels = math.prod(box[1:]), math.prod(box)
    rows = pixels - move * line
    x, eye = numbers((*box, columns), dtype), np.eye(columns, dtype=dtype)
    assert rows == 64
    assert move * line % 8 == 0

    def build(interpret):
        def body(x_gmem, eye_gmem, nan_gmem, out_gmem, union, eye_smem, barrier):
            tma, mma = (union, None) if interpret else union
            fetch(nan_gmem, tma, barrier)
            fetch(x_gmem, tma, barrier)
            fetch(eye_gmem, eye_smem, barrier)

            def multiply(acc):
                if interpret:  # it has no second view: line by line, as the kernels do there
                    for at in itertools.product(range(move, box[0]), *map(range, box[1:-1])):
                        flat = int(np.ravel_multi_index((at[0] - move, *at[1:], 0), box))
                        plgpu.wgmma(acc.at[pl.ds(flat, box[-1])], tma.at[at], eye_smem.T)
                else:
                    plgpu.wgmma(acc, mma.at[pl.ds(move * line, rows)], eye_smem.T)
                plgpu.wgmma_wait(0)
                return acc[...]

            out_gmem[...] = pl.run_scoped(multiply, plgpu.ACC((rows, columns), jnp.float32))

        views = two_views((), box, columns, jnp.dtype(dtype), interpret=interpret)
        scratch = [views, identity(columns, dtype, interpret), plgpu.Barrier()]
        return kernel(body, ((rows, columns), jnp.float32), scratch, interpret=interpret)

    expected = x.reshape(pixels, columns)[move * line :]
    shape = "x".join(map(str, box)) + (f"_from_line_{move}" if move else "")
    return Probe(f"view_load_{bk_bytes}B_{shape}", build, (x, eye, nans(*box, columns)), expected)


def view_store(box, columns, dtype=jnp.bfloat16) -> Probe:
    """wgmma by the identity, registers into the tiled view, TMA out of the other, clipped at the array's far end."""
    rows = math.prod(box)
    bk = 64  # of the bfloat16 operands
    full = tuple(2 * b - b // 2 if i else 2 for i, b in enumerate(box))  # two boxes a dimension, the last cut in half
    x = numbers((2 ** len(box), rows, bk), jnp.bfloat16)
    eye = np.eye(bk, dtype=jnp.bfloat16)[:columns]
    assert rows == 64

    def build(interpret):
        def body(x_gmem, eye_gmem, out_gmem, a_smem, eye_smem, union, barrier):
            block = lax.axis_index("block")
            tma, reg = (union, None) if interpret else union
            fetch(x_gmem.at[block], a_smem, barrier)
            fetch(eye_gmem, eye_smem, barrier)

            def multiply(acc):
                plgpu.wgmma(acc, a_smem, eye_smem.T)
                plgpu.wgmma_wait(0)
                return acc[...]

            out = pl.run_scoped(multiply, plgpu.ACC((rows, columns), jnp.float32)).astype(dtype)
            if interpret:
                for at in itertools.product(*map(range, box[:-1])):
                    flat = int(np.ravel_multi_index((*at, 0), box))
                    tma[at] = out[flat : flat + box[-1]]
            else:
                reg[...] = out
            plgpu.commit_smem()
            digits = [lax.rem(lax.div(block, jnp.int32(2**i)), jnp.int32(2)) for i in reversed(range(len(box)))]
            where = tuple(pl.ds(d * b, b) for d, b in zip(digits, box, strict=True))
            plgpu.copy_smem_to_gmem(tma, out_gmem.at[where])
            plgpu.wait_smem_to_gmem(0)

        a_tiles = (plgpu.TilingTransform((8, bk)), plgpu.SwizzleTransform(2 * bk))
        a_smem = plgpu.SMEM((rows, bk), jnp.bfloat16, transforms=() if interpret else a_tiles)
        eye_smem = plgpu.SMEM((columns, bk), jnp.bfloat16, transforms=() if interpret else a_tiles)
        views = two_views((), box, columns, jnp.dtype(dtype), interpret=interpret)
        scratch = [a_smem, eye_smem, views, plgpu.Barrier()]
        return kernel(body, ((*full, columns), dtype), scratch, grid=2 ** len(box), interpret=interpret)

    expected = np.full((*(2 * b for b in box), columns), np.nan, np.float32)
    for block, digits in enumerate(itertools.product(range(2), repeat=len(box))):
        where = tuple(slice(d * b, d * b + b) for d, b in zip(digits, box, strict=True))
        expected[where] = x[block, :, :columns].reshape(*box, columns)
    expected = expected[tuple(map(slice, full))]
    name = f"view_store_{columns * jnp.dtype(dtype).itemsize}B_{'x'.join(map(str, box))}_{jnp.dtype(dtype).name}"
    return Probe(name, build, (x, eye), expected)


def views() -> list[Probe]:
    loads = [view_load(box, n) for n in (32, 64, 128) for box in ((1, 4, 16), (1, 8, 8), (4, 2, 8), (1, 64), (16, 4))]
    loads += [view_load((6, 16), 128, move) for move in (2,)] + [view_load((10, 8), 64, 2), view_load((5, 16), 32, 1)]
    stores = [view_store(box, n) for n in (16, 32, 64) for box in ((1, 4, 16), (1, 8, 8), (4, 16))]
    return loads + stores + [view_store((1, 8, 8), 32, jnp.float32)]


# ------------------------------------------------------------ clusters


def multicast() -> list[Probe]:
    """Each of two CTAs fetches half of a tile and broadcasts it: both must hold all of it, before reading any of it."""
    probes = []
    for rows, swizzle in ((128, 128), (16, 128), (64, 64), (64, 32)):
        columns = swizzle // 2
        w = numbers((3, rows, columns), jnp.bfloat16, seed=rows)

        def build(interpret, rows=rows, columns=columns, swizzle=swizzle):
            def body(w_gmem, nan_gmem, out_gmem, smem, barrier, ready):
                block, cta = lax.axis_index("block"), lax.axis_index("cta")
                fetch(nan_gmem, smem, barrier)
                plgpu.barrier_arrive(ready)  # nobody writes into a neighbour that has not filled its NaNs yet
                plgpu.barrier_wait(ready)
                fetch(w_gmem.at[block], smem, barrier, collective_axes="cta")
                plgpu.copy_smem_to_gmem(smem, out_gmem.at[block, cta])
                plgpu.wait_smem_to_gmem(0)
                plgpu.barrier_arrive(ready)  # nor leaves while the other still writes into it
                plgpu.barrier_wait(ready)

            transforms = () if interpret else (plgpu.SwizzleTransform(swizzle),)
            scratch = [
                plgpu.SMEM((rows, columns), jnp.bfloat16, transforms=transforms),
                plgpu.Barrier(),
                plgpu.ClusterBarrier(collective_axes=("cta",)),
            ]
            out = (3, 2, rows, columns), jnp.bfloat16
            return kernel(body, out, scratch, grid=3, cluster=2, interpret=interpret)

        expected = np.broadcast_to(w[:, None], (3, 2, rows, columns))
        probes.append(Probe(f"multicast_{swizzle}B_{rows}_rows", build, (w, nans(rows, columns)), expected))
    return probes


# ------------------------------------------------------------ stores


def stores() -> list[Probe]:
    """Probes that store into a plain array, and into the output phases of a transposed convolution, picked by integers."""
    plain = [(n, h, w, 0) for n in range(2) for h, w in ((0, 0), (4, 0), (0, 8), (4, 8))]
    plain.sort(key=lambda start: (start[2] > 4, start[1] > 2))  # those that are clipped come last
    phases = [(n, h, p, w, q, g, 0) for h, w in ((0, 0), (0, 8), (4, 0)) for n, p, q, g in np.ndindex(2, 2, 2, 2)]
    return [
        store("store_clips", (2, 6, 12, 64), (), plain),
        store("store_phases", (2, 4, 2, 12, 2, 2, 64), (2, 4, 5), phases),  # the last ones wholly outside
    ]


def store(name, shape, indexed, starts) -> Probe:
    """Boxes stored across the ends of an array: nothing may spill into the rows that were stored before them."""
    box = (1, 4, 8, 64)
    tiles = numbers((len(starts), *box), jnp.bfloat16)

    def build(interpret):
        def body(tiles_gmem, starts_gmem, out_gmem, smem, barrier):
            @pl.loop(0, len(starts))
            def _(i):
                fetch(tiles_gmem.at[i], smem, barrier)
                extent = iter(box)
                at = [starts_gmem[i, axis] for axis in range(len(shape))]
                where = [a if axis in indexed else pl.ds(a, next(extent)) for axis, a in enumerate(at)]
                plgpu.copy_smem_to_gmem(smem, out_gmem.at[tuple(where)])
                plgpu.wait_smem_to_gmem(0)

        transforms = () if interpret else (plgpu.SwizzleTransform(128),)
        scratch = [plgpu.SMEM(box, jnp.bfloat16, transforms=transforms), plgpu.Barrier()]
        return kernel(body, (shape, jnp.bfloat16), scratch, interpret=interpret)

    expected = np.zeros(shape, jnp.bfloat16)
    for tile, start in zip(tiles, starts, strict=True):
        extent = iter(box)
        part = expected[
            tuple(slice(a, a + 1) if axis in indexed else slice(a, a + next(extent)) for axis, a in enumerate(start))
        ]
        part[...] = tile[tuple(map(slice, np.delete(part.shape, indexed)))].reshape(part.shape)
    return Probe(name, build, (tiles, np.array(starts, np.int32)), expected)


@functools.cache
def probes() -> tuple[Probe, ...]:
    """The most basic first."""
    return (*out_of_bounds(), *views(), *multicast(), *collapsed(), *dropped(), *stores())

"""The kernels that time one thing each, as the dense kernel does it: fill, multiply, hand over, store, nothing.

Each is a function of a `plan`, int32 [blocks, 4], and its other operands, and returns (result, watch): what `expected_*`
says it computed, so that no rate is that of a kernel which did not do its work, and what its `stopwatch` read. The row of
the plan of a block is

    (count, first, step, end)    repeat `count` times; load boxes first, first + step, ... below `end`, then first again

so that one compiled kernel loads lines that are distinct or shared, of L2 or of global memory, in many blocks or in one.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_conv.kernels import mosaic

from . import stopwatch

type Kernel = Callable[..., tuple[Array, Array]]

COST = mosaic.CostEstimate(flops=0, transcendentals=0, bytes_accessed=0)
COLUMNS = 32  # of a chunk of an epilogue: `Config.columns`


def _kernel(
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


def _block(cluster: int = 1) -> Array:
    """The number of this thread block."""
    return lax.axis_index("block") * cluster + (lax.axis_index("cta") if cluster > 1 else 0)


def _rows(box: tuple[int, ...], lead: tuple[int, ...], dtype: Any, interpret: bool) -> Any:
    """Shared memory [*lead, *box], swizzled as wide as a row of the box is."""
    swizzle: Any = plgpu.SwizzleTransform(box[-1] * jnp.dtype(dtype).itemsize)  # type: ignore[abstract]
    return plgpu.SMEM((*lead, *box), dtype, transforms=() if interpret else (swizzle,))


def _matrix(rows: int, lead: tuple[int, ...], dtype: Any, interpret: bool) -> Any:
    """Shared memory [*lead, rows, 128 bytes], as wgmma reads it."""
    columns = 128 // jnp.dtype(dtype).itemsize
    tiles: Any = plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(128)  # type: ignore[abstract]
    return plgpu.SMEM((*lead, rows, columns), dtype, transforms=() if interpret else tiles)


# ------------------------------------------------------------ where boxes are


def _start(index: Array, shape: tuple[int, ...], box: tuple[int, ...]) -> tuple[Any, ...]:
    """The window of the index-th box of an array that it divides, the last dimension fastest."""
    window: list[Any] = []
    for size, extent in reversed(list(zip(shape, box, strict=True))):
        many = size // extent
        window.append(mosaic.ds(lax.rem(index, jnp.int32(many)) * extent, extent))
        index = lax.div(index, jnp.int32(many))
    return tuple(reversed(window))


def _following(at: Array, plan: Any, block: Array) -> Array:
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


# ------------------------------------------------------------ fill: TMA loads into a ring of slots


class _Ring:
    """Slots that a warpgroup fills: each with `copies` boxes of an array, or with their halves if a cluster shares them."""

    def __init__(self, x: Any, plan: Any, slots: Any, full: Any, block: Array, box: tuple[int, ...], cluster: int):
        self.x, self.plan, self.slots, self.full, self.block, self.box = x, plan, slots, full, block, box
        self.axes = "cta" if cluster > 1 else None

    def load(self, slot: Array, at: Array) -> None:
        copies = self.slots.shape[1]
        for c in range(copies):
            window = _start(at * copies + c, self.x.shape, self.box)
            mosaic.copy_gmem_to_smem(
                self.x.at[window], self.slots.at[slot, c], self.full.at[slot], collective_axes=self.axes
            )


def fill(
    shape: tuple[int, ...], box: tuple[int, ...], slots: int, blocks: int, *, copies: int = 1, cluster: int = 1,
    one_warp: bool = False, spare_bytes: int = 0, interpret: bool = False,
) -> Kernel:  # fmt: skip
    """Of (plan, x): keeps `slots` loads in flight, each of `copies` boxes of x, a bfloat16 array of this shape.

    In clusters every block loads half of each box and gets all of it. A warpgroup of 128 threads issues loads and arrives
    at barriers, as in the dense kernel, or one warp does. spare_bytes: more shared memory for a block to have.
    Returns the last load of each block, [blocks, copies, *box].
    """

    def body(plan: Any, x: Any, out: Any, watch: Any, ring: Any, full: Any, *others: Any) -> None:
        block, count = _block(cluster), plan[_block(cluster), 0]
        empty = others[0] if cluster > 1 else None
        it = _Ring(x, plan, ring, full, block, box, cluster)
        started = stopwatch.start(interpret)

        def again(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            slot, at = carry
            mosaic.barrier_wait(full.at[slot])
            if empty is not None:  # the other block writes here, too
                mosaic.barrier_arrive(empty.at[slot])
                mosaic.barrier_wait(empty.at[slot])
            mosaic.when(i + slots < count)(lambda: it.load(slot, at))
            return _next(slot, slots), _following(at, plan, block)

        def work() -> None:
            at = plan[block, 1]
            for slot in range(slots):
                mosaic.when(slot < count)(functools.partial(it.load, jnp.int32(slot), at))
                at = _following(at, plan, block)
            lax.fori_loop(0, count, again, (jnp.int32(0), at))

        _in_one_warp(work) if one_warp else work()
        stopwatch.stop(started, watch, block)
        last = lax.rem(jnp.maximum(count - 1, 0), jnp.int32(slots))

        @mosaic.when(count > 0)
        def _() -> None:
            mosaic.copy_smem_to_gmem(ring.at[last], out.at[block])
            mosaic.wait_smem_to_gmem(0)

    scratch = [
        _rows(box, (slots, copies), jnp.bfloat16, interpret),
        mosaic.Barrier(num_arrivals=copies, num_barriers=slots),
    ]
    if cluster > 1:
        scratch.append(mosaic.ClusterBarrier(collective_axes=("cta",), num_barriers=slots))
    if spare_bytes:
        scratch.append(plgpu.SMEM((spare_bytes,), jnp.int8))
    out = jax.ShapeDtypeStruct((blocks, copies, *box), jnp.bfloat16)
    return _kernel("fill", body, out, scratch, blocks, interpret, cluster)


def _in_one_warp(work: Callable[[], None]) -> None:
    """The first warp of this warpgroup; the others wait for it."""

    def warp(number: Array) -> None:
        mosaic.when(number == 0)(work)

    plgpu.warp_map(warp)


def expected_fill(plan: np.ndarray, x: np.ndarray, box: tuple[int, ...], copies: int) -> dict[int, np.ndarray]:
    """The result of each block that loads anything."""
    last = {block: visited(row)[-1] for block, row in enumerate(plan) if row[0]}
    return {b: np.stack([cut(x, box, at * copies + c) for c in range(copies)]) for b, at in last.items()}


def _next(slot: Array, slots: int) -> Array:
    return jnp.where(slot == slots - 1, 0, slot + 1)


# ------------------------------------------------------------ multiply: wgmma beside TMA


class _Mainloop:
    """A producer that fills slots, consumers that wait for them, and multiply operands which stay in shared memory.

    a_smem [consumers, taps, pixels, 128 bytes], b_smem [taps, columns, 128 bytes]. As in the dense kernel a step waits for
    its slot and hands back that of the step before; what is in a slot is not read.
    """

    def __init__(self, plan: Any, a_smem: Any, b_smem: Any, ring: Any, full: Any, empty: Any, ready: Any):
        self.plan, self.a_smem, self.b_smem, self.ring = plan, a_smem, b_smem, ring
        self.full, self.empty, self.ready = full, empty, ready
        (self.consumers, self.taps, self.pixels), self.columns = a_smem.shape[:3], b_smem.shape[1]
        self.slots = ring.shape[0]

    def produce(self, a: Any, b: Any, x: Any, steps: Array) -> None:
        """Load the operands, then as many slots, with boxes of x."""
        for tap in range(self.taps):
            for consumer in range(self.consumers):
                mosaic.copy_gmem_to_smem(a.at[consumer, tap], self.a_smem.at[consumer, tap], self.ready)
            mosaic.copy_gmem_to_smem(b.at[tap], self.b_smem.at[tap], self.ready)
        block = _block()
        it = _Ring(x, self.plan, self.ring, self.full, block, self.ring.shape[2:], 1)

        def load(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            slot, at = carry
            mosaic.barrier_wait(self.empty.at[slot])
            it.load(slot, at)
            return _next(slot, self.slots), _following(at, self.plan, block)

        slot, _ = lax.fori_loop(0, steps, load, (jnp.int32(0), self.plan[block, 1]))
        for _ in range(self.slots):  # see every slot handed back before leaving
            mosaic.barrier_wait(self.empty.at[slot])
            slot = _next(slot, self.slots)

    def begin(self) -> None:
        """Hand all slots to the producer, and wait for the operands."""
        for slot in range(self.slots):
            mosaic.barrier_arrive(self.empty.at[slot])
        mosaic.barrier_wait(self.ready)

    def tile(self, me: Array, steps: Any, slot: Array) -> tuple[Array, Array]:
        """The sums [pixels, columns] of so many steps from this slot on, and the slot after."""
        release = lambda slot: mosaic.barrier_arrive(self.empty.at[_before(slot, self.slots)])

        def accumulate(acc: Any) -> tuple[Array, Array]:
            def step(i: Array, slot: Array) -> Array:
                mosaic.barrier_wait(self.full.at[slot])
                for tap in range(self.taps):
                    mosaic.wgmma(acc, self.a_smem.at[me, tap], self.b_smem.at[tap].T)
                mosaic.wgmma_wait(self.taps)
                mosaic.when(i > 0)(lambda: release(slot))
                return _next(slot, self.slots)

            end = lax.fori_loop(0, steps, step, slot)
            mosaic.wgmma_wait(0)
            mosaic.when(steps > 0)(lambda: release(end))
            return acc[...], end

        return mosaic.run_scoped(accumulate, mosaic.ACC((self.pixels, self.columns), jnp.float32))


def _mainloop_scratch(
    pixels: int, columns: int, consumers: int, taps: int, box_rows: int, slots: int, dtype: str, interpret: bool
) -> list[Any]:
    return [
        _matrix(pixels, (consumers, taps), dtype, interpret),
        _matrix(columns, (taps,), dtype, interpret),
        _rows((box_rows, 128 // jnp.dtype(dtype).itemsize), (slots, 1), dtype, interpret),
        mosaic.Barrier(num_barriers=slots),
        mosaic.Barrier(num_arrivals=consumers, num_barriers=slots),
        mosaic.Barrier(num_arrivals=taps * (consumers + 1)),
    ]


def multiply(
    pixels: int, columns: int, consumers: int, taps: int, box_rows: int, blocks: int, *, dtype: str = "bfloat16",
    slots: int = 3, interpret: bool = False,
) -> Kernel:  # fmt: skip
    """Of (plan, a, b, x): a step multiplies a[pixels, 128 bytes] by b[columns, 128 bytes] for each of its taps and consumers.

    Meanwhile a producer loads `box_rows` rows of x, [rows, 128 bytes].
    Returns the sums of the first block, [consumers, pixels, columns] in float32.
    """

    def body(plan: Any, a: Any, b: Any, x: Any, out: Any, watch: Any, *shared: Any) -> None:
        me, loop, count = lax.axis_index("thread"), _Mainloop(plan, *shared), plan[_block(), 0]

        @mosaic.when(me == consumers)
        def _() -> None:
            loop.produce(a, b, x, count)

        @mosaic.when(me < consumers)
        def _() -> None:
            loop.begin()
            started = stopwatch.start(interpret)
            sums, _ = loop.tile(me, count, jnp.int32(0))
            mosaic.when(me == 0)(lambda: stopwatch.stop(started, watch, _block()))

            @mosaic.when(_block() == 0)
            def tell() -> None:
                out[me] = sums

    scratch = _mainloop_scratch(pixels, columns, consumers, taps, box_rows, slots, dtype, interpret)
    out = jax.ShapeDtypeStruct((consumers, pixels, columns), jnp.float32)
    return _kernel("multiply", body, out, scratch, blocks, interpret, threads=consumers + 1)


def tiles(
    pixels: int,
    columns: int,
    consumers: int,
    taps: int,
    steps: int,
    slots: int,
    blocks: int,
    *,
    interpret: bool = False,
) -> Kernel:
    """Of (plan, a, b, x): as `multiply`, but with an epilogue every `steps` steps, which stores the sums in bfloat16.

    Slots hold eight rows. A deeper ring lets one consumer multiply while another stores.
    Returns the last tile of each block, [blocks, consumers, columns / COLUMNS, pixels, COLUMNS].
    """

    def body(plan: Any, a: Any, b: Any, x: Any, out: Any, watch: Any, staged: Any, *shared: Any) -> None:
        me, loop, block = lax.axis_index("thread"), _Mainloop(plan, *shared), _block()
        count = plan[block, 0]

        def per_tile(i: Array, slot: Array) -> Array:
            sums, slot = loop.tile(me, steps, slot)
            _all_stored()  # of the tile before, long ago
            for chunk in range(columns // COLUMNS):
                value = sums[:, chunk * COLUMNS : (chunk + 1) * COLUMNS]
                _stage(value, staged.at[me, chunk % 2], out.at[block, me, chunk], buffers=2)
            return slot

        @mosaic.when(me == consumers)
        def _() -> None:
            loop.produce(a, b, x, count * steps)

        @mosaic.when(me < consumers)
        def _() -> None:
            loop.begin()
            started = stopwatch.start(interpret)
            lax.fori_loop(0, count, per_tile, jnp.int32(0))
            _all_stored()
            mosaic.when(me == 0)(lambda: stopwatch.stop(started, watch, block))

    scratch = [
        _staging(pixels, (consumers, 2), interpret),
        *_mainloop_scratch(pixels, columns, consumers, taps, 8, slots, "bfloat16", interpret),
    ]
    out = jax.ShapeDtypeStruct((blocks, consumers, columns // COLUMNS, pixels, COLUMNS), jnp.bfloat16)
    return _kernel("tiles", body, out, scratch, blocks, interpret, threads=consumers + 1)


def expected_multiply(steps: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sums of so many steps, [consumers, pixels, columns]."""
    return steps * np.einsum("utpc,tkc->upk", a.astype(np.float32), b.astype(np.float32))


def expected_tile(steps: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The same as `tiles` stores them, [consumers, columns / COLUMNS, pixels, COLUMNS]."""
    sums = expected_multiply(steps, a, b)
    return sums.reshape(*sums.shape[:2], -1, COLUMNS).swapaxes(1, 2)


def _before(slot: Array, slots: int) -> Array:
    return jnp.where(slot == 0, slots - 1, slot - 1)


# ------------------------------------------------------------ hand over: an arrival at a barrier, and what waits for it


def hand_over(blocks: int, *, cluster: int = 1, interpret: bool = False) -> Kernel:
    """Of (plan,): arrives at a barrier, which all blocks of a cluster share, and waits for it.

    Returns how often each block did, [blocks, 128].
    """

    def body(plan: Any, out: Any, watch: Any, barrier: Any) -> None:
        block = _block(cluster)
        started = stopwatch.start(interpret)

        def again(i: Array, done: Array) -> Array:
            mosaic.barrier_arrive(barrier)
            mosaic.barrier_wait(barrier)
            return done + 1

        done = lax.fori_loop(0, plan[block, 0], again, jnp.int32(0))
        stopwatch.stop(started, watch, block)
        out[block] = jnp.broadcast_to(done, (stopwatch.THREADS,))

    barrier = mosaic.ClusterBarrier(collective_axes=("cta",)) if cluster > 1 else mosaic.Barrier()
    out = jax.ShapeDtypeStruct((blocks, stopwatch.THREADS), jnp.int32)
    return _kernel("hand_over", body, out, [barrier], blocks, interpret, cluster)


# ------------------------------------------------------------ store: a chunk of an epilogue


def store(
    pixels: int, buffers: int, room: int, blocks: int, *, consumers: int = 1, read_only: bool = True,
    interpret: bool = False,
) -> Kernel:  # fmt: skip
    """Of (plan, bias): turns of an epilogue, each of a chunk through every one of `buffers`: bias, relu, bfloat16, TMA.

    read_only: waits until a buffer may be written again, not until its store is done.
    Returns each block's last `room` chunks, a multiple of buffers, [blocks, consumers, room, pixels, COLUMNS]: the i-th is
    relu(bias + i), at i % room.
    """

    def body(plan: Any, bias: Any, out: Any, watch: Any, staged: Any) -> None:
        block, me = _block(), lax.axis_index("thread") if consumers > 1 else jnp.int32(0)
        started = stopwatch.start(interpret)

        def chunk(i: Array, buffer: int) -> None:
            row = mosaic.load(bias, layout=mosaic.Layout.WGMMA.reduce(0), optimized=False) + i.astype(jnp.float32)
            z = jnp.maximum(lax.broadcast_in_dim(row, (pixels, COLUMNS), (1,)), 0)
            _stage(z, staged.at[me, buffer], out.at[block, me, lax.rem(i, jnp.int32(room))], buffers, read_only)

        def turn(i: Array, _: None) -> None:
            mosaic.when(lax.rem(i, jnp.int32(room // buffers)) == 0)(_all_stored)
            for buffer in range(buffers):
                chunk(i * buffers + buffer, buffer)

        lax.fori_loop(0, plan[block, 0], turn, None)
        _all_stored()
        mosaic.when(me == 0)(lambda: stopwatch.stop(started, watch, block))

    out = jax.ShapeDtypeStruct((blocks, consumers, room, pixels, COLUMNS), jnp.bfloat16)
    scratch = [_staging(pixels, (consumers, buffers), interpret)]
    return _kernel("store", body, out, scratch, blocks, interpret, threads=consumers)


def _all_stored() -> None:
    """Waits: stores to the same place in global memory have no order of their own."""
    mosaic.wait_smem_to_gmem(0)


def _staging(pixels: int, lead: tuple[int, ...], interpret: bool) -> Any:
    """Shared memory for chunks on their way out, as registers write it."""
    tiles: Any = plgpu.TilingTransform((8, COLUMNS)), plgpu.SwizzleTransform(2 * COLUMNS)  # type: ignore[abstract]
    return plgpu.SMEM((*lead, pixels, COLUMNS), jnp.bfloat16, transforms=() if interpret else tiles)


def _stage(chunk: Array, staged: Any, target: Any, buffers: int, read_only: bool = True) -> None:
    """From registers through a buffer, once what left it `buffers` chunks ago has been read, or is done, to global memory."""
    mosaic.wait_smem_to_gmem(buffers - 1, wait_read_only=read_only)
    staged[...] = chunk.astype(jnp.bfloat16)
    mosaic.commit_smem()
    mosaic.copy_smem_to_gmem(staged, target)


def expected_store(chunks: int, bias: np.ndarray, room: int) -> dict[int, np.ndarray]:
    """A row of the chunks that are left of so many, by where they are."""
    return {i % room: np.maximum(bias + np.float32(i), 0) for i in range(max(0, chunks - room), chunks)}


# ------------------------------------------------------------ nothing


def idle(blocks: int, *, interpret: bool = False) -> Kernel:
    """Of (x,), int32 [128]: what any kernel costs. Returns x."""

    def body(x: Any, out: Any, watch: Any) -> None:
        started = stopwatch.start(interpret)

        @mosaic.when(_block() == 0)
        def _() -> None:
            out[...] = x[...]

        stopwatch.stop(started, watch, _block())

    out = jax.ShapeDtypeStruct((stopwatch.THREADS,), jnp.int32)
    return _kernel("idle", body, out, [], blocks, interpret)

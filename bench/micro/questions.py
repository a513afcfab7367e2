"""Questions to a device, in the order in which the ranking of tiles depends on them: kernels, and ways to run them.

A way to run a kernel is a plan for so many repetitions in every block; its value is that of one repetition, by the
difference of two numbers of them. Values that constants come from are in constants.py.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pallas_conv.kernels.gpu import HOPPER

from . import kernels
from .question import ROW, Question, Repetition, Run, Sizes

FEW = 8  # SMs that ask for nothing which all of them share
BEYOND_L2 = 2**26  # bytes that L2 cannot hold: those of the shorter of two launches
TENSOR_FLOPS = 4096  # a clock and SM, of 16-bit operands: by specification


def questions(sizes: Sizes) -> list[Question]:
    """All questions, in order."""
    every: list[Callable[[Sizes], Iterable[Question]]] = [
        _l2, _multicast, _latency, _images, _products, _rows, _arrivals, _stores, _drift
    ]  # fmt: skip
    return [question for ask in every for question in ask(sizes)]


# ------------------------------------------------------------ plans


def _plan(blocks: int, active: int, row: Callable[[int], tuple[int, int, int]]) -> Callable[[int], np.ndarray]:
    """The first `active` blocks load boxes (first, step, end) of `row(block)`."""
    rows = [row(block) for block in range(min(active, blocks))]

    def plan(count: int) -> np.ndarray:
        idle = [(0, 0, 1, 1)] * (blocks - len(rows))
        return np.array([(count, *row) for row in rows] + idle, np.int32)

    return plan


def _distinct(each: int) -> Callable[[int], tuple[int, int, int]]:
    """A plan that gives each block `each` boxes of its own."""
    return lambda block: (block * each, 1, (block + 1) * each)


def _shared(every: int, by: int) -> Callable[[int], tuple[int, int, int]]:
    """The same `every` boxes for so many neighbouring blocks."""
    return lambda block: (block // by * every, 1, (block // by + 1) * every)


def _streamed(active: int, boxes: int) -> Callable[[int], tuple[int, int, int]]:
    """All boxes of an array, those of neighbouring blocks side by side."""
    return lambda block: (block, active, boxes)


# ------------------------------------------------------------ 1. L2 and global memory, by TMA


def _fill(
    sizes: Sizes, name: str, shape: tuple[int, ...], box: tuple[int, ...], slots: int, runs: Iterable[Run],
    *, blocks: int = 0, copies: int = 1, **how: Any,
) -> Question:  # fmt: skip
    def right(plan: np.ndarray, operands: list[np.ndarray], result: np.ndarray) -> bool:
        expected = kernels.expected_fill(plan, operands[0], box, copies)
        return all((result[block] == boxes).all() for block, boxes in expected.items())

    build = functools.partial(kernels.fill, shape, box, slots, blocks or sizes.sms, copies=copies, **how)
    return Question(name, "fill", build, (jax.ShapeDtypeStruct(shape, jnp.bfloat16),), right, tuple(runs))


def _bytes(box: tuple[int, ...]) -> int:
    return 2 * math.prod(box)


def _per_clock(amount: float) -> Callable[[Repetition], float]:
    return lambda repetition: amount / repetition.clocks


def _clocks(per: int = 1) -> Callable[[Repetition], float]:
    return lambda repetition: repetition.clocks / per


def _l2(sizes: Sizes) -> Iterable[Question]:
    sms, box, boxes = sizes.sms, sizes.box, sizes.pixels[0] // sizes.box[0]
    nbytes, unit = _bytes(box), "B/clk/SM"
    each = lambda mib: max(1, min(boxes, mib * 2**20 // nbytes) // sms)  # boxes of a block, of so much in all
    together = min(boxes, 2**10)
    run = lambda name, active, row, count: Run(
        name, unit, sizes.count(count), _plan(sms, active, row), _per_clock(nbytes), {"nbytes": nbytes}
    )
    streamed = sizes.count(boxes // sms)
    dram = Run(
        "dram", "TB/s", streamed, _plan(sms, sms, _streamed(sms, boxes)), lambda r: sms * nbytes / r.us / 1e6,
        {"nbytes": nbytes},
    )  # fmt: skip
    runs = [
        run("l2_distinct", sms, _distinct(each(16)), 2048),
        run("l2_shared", sms, _shared(together, sms), 4 * together),
        run("l2_shared_by_4", sms, _shared(4 * each(16), 4), 2048),
        run("l2_one_sm", 1, _distinct(each(16)), 4096),
        dram,
        run("dram_one_sm", 1, _streamed(1, boxes), 4 * BEYOND_L2 // nbytes),
    ]
    kept = [(mib, run(f"l2_of_{mib}_mib", sms, _distinct(each(mib)), 2048)) for mib in (24, 32, 40, 48)]
    runs += [dataclasses.replace(r, facts=r.facts | {"mib": mib}) for mib, r in kept]
    yield _fill(sizes, "l2", sizes.pixels, box, 4 if sizes.dry else 8, runs)


def _multicast(sizes: Sizes) -> Iterable[Question]:
    """Each of two blocks asks for half of a box, and gets all of it."""
    sms, box = sizes.sms // 2 * 2, sizes.box
    plan = _plan(sms, sms, _shared(16, 2) if not sizes.dry else _shared(4, 2))
    run = Run("l2_multicast", "B/clk/SM", sizes.count(2048), plan, _per_clock(_bytes(box)), {"nbytes": _bytes(box)})
    yield _fill(sizes, "multicast", sizes.pixels, box, 4 if sizes.dry else 8, [run], blocks=sms, cluster=2)


def _latency(sizes: Sizes) -> Iterable[Question]:
    """One small box at a time; with it, whether two blocks of all the shared memory that two may have share an SM."""
    box, sms = (8, ROW), sizes.sms
    boxes = sizes.pixels[0] // box[0]
    spare = HOPPER.smem_limit(blocks=2) - 2 * _bytes(box)
    few = min(FEW, sms)
    run = lambda name, active, row, count: Run(
        name, "clk", sizes.count(count), _plan(2 * sms, active, row), _clocks(), {"nbytes": _bytes(box)}
    )
    runs = [
        run("latency_l2", few, _distinct(4), 2048),
        run("latency_dram", few, _streamed(few, boxes), 4 * BEYOND_L2 // (few * _bytes(box))),
        run("blocks_one_an_sm", sms, _distinct(4), 2048),
        run("blocks_two_an_sm", 2 * sms, _distinct(4), 2048),
    ]
    yield _fill(sizes, "latency", sizes.pixels, box, 1, runs, blocks=2 * sms, spare_bytes=spare)


# ------------------------------------------------------------ 2. boxes over images


def _images(sizes: Sizes) -> Iterable[Question]:
    """The same bytes of a [N, H, W, C] array that L2 cannot hold."""
    shape = (8, 4, 4, 2 * ROW) if sizes.dry else (512, 64, 64, 2 * ROW)
    boxes = ((8, 1, 1), (2, 2, 2), (1, 2, 4)) if sizes.dry else ((128, 1, 1), (8, 4, 4), (1, 8, 16))
    names, few = ("images", "mixed", "spatial"), min(FEW, sizes.sms)
    nbytes = _bytes((*boxes[0], ROW))
    many = 2 * math.prod(shape) // nbytes
    for name, box in zip(names, boxes, strict=True):
        streamed = _plan(sizes.sms, sizes.sms, _streamed(sizes.sms, many))
        value = lambda r: sizes.sms * nbytes / r.us / 1e6
        run = Run(
            f"boxes_{name}", "TB/s", sizes.count(many // sizes.sms), streamed, value, {"box": box, "nbytes": nbytes}
        )
        yield _fill(sizes, f"boxes_{name}", shape, (*box, ROW), 4 if sizes.dry else 8, [run])
    for name, box in zip(names[::2], boxes[::2], strict=True):
        alone = _plan(sizes.sms, few, _streamed(few, many))
        count = sizes.count(4 * BEYOND_L2 // (few * nbytes))
        run = Run(f"latency_{name}", "clk", count, alone, _clocks(), {"box": box, "nbytes": nbytes})
        yield _fill(sizes, f"latency_{name}", shape, (*box, ROW), 1, [run])


# ------------------------------------------------------------ 3. wgmma from shared memory


class Multiply(NamedTuple):
    """The product of a step of consumers, and what is loaded meanwhile."""

    pixels: int
    columns: int
    consumers: int
    box_rows: int
    dtype: str = "bfloat16"

    @property
    def kind(self) -> str:
        return "tf32" if self.dtype == "float32" else "bf16"

    @property
    def name(self) -> str:
        return f"wgmma_{self.kind}_{self.consumers}x{self.pixels}x{self.columns}" + "_beside_tma" * (self.box_rows > 8)

    @property
    def lanes(self) -> int:
        """Elements of a row of 128 bytes."""
        return 128 // jnp.dtype(self.dtype).itemsize

    @property
    def taps(self) -> int:
        """Number of taps that make a step take about 1,024 clocks, so that its barriers do not count."""
        return min(8, max(1, 2**15 // (self.consumers * self.pixels * self.columns)))

    @property
    def flops(self) -> int:
        """Floating-point operations of a step."""
        return 2 * self.consumers * self.taps * self.pixels * self.columns * self.lanes

    @property
    def peak_clocks(self) -> float:
        return self.flops / (TENSOR_FLOPS if self.dtype != "float32" else TENSOR_FLOPS / 2)

    @property
    def read_bytes(self) -> float:
        """Bytes of shared memory read in a step: each 64 pixels read the weights."""
        return self.consumers * self.taps * self.pixels * (1 + self.columns / 64) * 128

    @property
    def written_bytes(self) -> int:
        """Bytes of shared memory written in a step, by TMA."""
        return self.box_rows * 128

    def facts(self) -> dict[str, Any]:
        return {"read_bytes": self.read_bytes, "written_bytes": self.written_bytes, "flops": self.flops}


def products() -> list[Multiply]:
    """Products of one consumer and of two, narrow ones bound by shared memory, beside hardly any writes and beside many."""
    sides = [
        (64, 256, 1),
        (64, 128, 1),
        (64, 64, 1),
        (64, 32, 1),
        (64, 256, 2),
        (64, 128, 2),
        (64, 64, 2),
        (128, 128, 2),
    ]
    found = [Multiply(*side, rows) for side in sides for rows in (8, 128)]
    return [*found, Multiply(128, 128, 2, 128, "float32")]


def _products(sizes: Sizes) -> Iterable[Question]:
    return (multiplied(sizes, it) for it in products())


def multiplied(sizes: Sizes, it: Multiply) -> Question:
    sms, each = sizes.sms, 8
    plan = _plan(sms, sms, _distinct(each))
    shapes = (
        jax.ShapeDtypeStruct((it.consumers, it.taps, it.pixels, it.lanes), it.dtype),
        jax.ShapeDtypeStruct((it.taps, it.columns, it.lanes), it.dtype),
        jax.ShapeDtypeStruct((sms * each * it.box_rows, it.lanes), it.dtype),
    )

    def right(plan: np.ndarray, operands: list[np.ndarray], result: np.ndarray) -> bool:
        return _near(result, kernels.expected_multiply(int(plan[0, 0]), *operands[:2]), it.dtype)

    value = lambda r: it.peak_clocks / r.clocks
    run = Run(it.name, "of peak", sizes.count(1024), plan, value, it.facts())
    build = functools.partial(
        kernels.multiply, it.pixels, it.columns, it.consumers, it.taps, it.box_rows, sms, dtype=it.dtype
    )
    return Question(it.name, "multiply", build, shapes, right, (run,))


def _near(result: np.ndarray, expected: np.ndarray, dtype: str) -> bool:
    """Whether a result is as expected, but for the order of sums and, as TF32, for digits that are truncated."""
    part = 1e-2 if dtype == "float32" else 1e-3
    return bool(np.abs(result.astype(np.float32) - expected).max() <= part * np.abs(expected).max())


# ------------------------------------------------------------ 4. rows of boxes


def _rows(sizes: Sizes) -> Iterable[Question]:
    """Rows of 128 bytes, 64 and 32, in few SMs, so that L2 is no limit."""
    for lanes in (ROW, ROW // 2, ROW // 4):
        box = (8 if sizes.dry else 256, lanes)
        few = min(FEW, sizes.sms)
        plan = _plan(sizes.sms, few, _distinct(8))
        name = f"rows_{2 * lanes}_bytes"
        run = Run(name, "rows/clk/SM", sizes.count(2048), plan, _per_clock(box[0]), {"nbytes": _bytes(box)})
        yield _fill(sizes, name, (few * 8 * box[0], lanes), box, 4, [run])


# ------------------------------------------------------------ 5. arrivals


def _arrivals(sizes: Sizes) -> Iterable[Question]:
    """Questions about the producer's cost of a step and a copy, by 128 threads and by one warp, and of handing a slot back."""
    sms, box, few = sizes.sms, (8, ROW), min(FEW, sizes.sms)
    slots = 4 if sizes.dry else 24  # so many that a load's latency is no limit
    for copies in (1, 4):
        for one_warp in (False, True):
            name = f"issue_{copies}" + "_by_one_warp" * one_warp
            run = Run(name, "clk", sizes.count(8192), _plan(sms, few, _distinct(8)), _clocks(), {"copies": copies})
            shape = (few * 8 * copies * box[0], ROW)
            yield _fill(sizes, name, shape, box, slots, [run], copies=copies, one_warp=one_warp)
    for cluster in (1, 2):
        blocks = sms // cluster * cluster
        plan = _plan(blocks, blocks, _distinct(1))
        name = "hand_over" + "_in_cluster" * (cluster > 1)
        right = lambda plan, operands, result: bool((result == plan[:, :1]).all())
        build = functools.partial(kernels.hand_over, blocks, cluster=cluster)
        yield Question(name, "hand_over", build, (), right, (Run(name, "clk", sizes.count(8192), plan, _clocks()),))


# ------------------------------------------------------------ 6. a chunk of an epilogue


def _stores(sizes: Sizes) -> Iterable[Question]:
    blocks, room = min(FEW, sizes.sms), 8 if sizes.dry else 256
    plan = _plan(blocks, blocks, _distinct(1))
    ways = {
        "chunk_64": (64, 4, 1, True),
        "chunk_128": (128, 4, 1, True),
        "chunk_64_by_two": (64, 4, 2, True),
        "chunk_64_one_buffer": (64, 1, 1, True),
        "chunk_64_done": (64, 1, 1, False),
    }
    for name, (pixels, buffers, consumers, read_only) in ways.items():

        def right(plan: np.ndarray, operands: list[np.ndarray], result: np.ndarray, buffers: int = buffers) -> bool:
            expected = kernels.expected_store(int(plan[0, 0]) * buffers, operands[0], room)
            return all((result[:, :, at] == row.astype(result.dtype)).all() for at, row in expected.items())

        build = functools.partial(
            kernels.store, pixels, buffers, room, blocks, consumers=consumers, read_only=read_only
        )
        elements = pixels * kernels.COLUMNS // 128
        run = Run(name, "clk", sizes.count(4096), plan, _clocks(buffers), {"elements": elements})
        yield Question(name, "store", build, (jax.ShapeDtypeStruct((kernels.COLUMNS,), "float32"),), right, (run,))


# ------------------------------------------------------------ 7. drift of two consumers

DRIFT_STEPS = 8  # of a tile


def _drift(sizes: Sizes) -> Iterable[Question]:
    """Tiles of short sums, with a ring that lets one consumer multiply while the other stores, and with one that does not."""
    it, sms, each = Multiply(128, 128, 2, 8), sizes.sms, 8
    steps = 2 if sizes.dry else DRIFT_STEPS
    shapes = (
        jax.ShapeDtypeStruct((it.consumers, it.taps, it.pixels, it.lanes), it.dtype),
        jax.ShapeDtypeStruct((it.taps, it.columns, it.lanes), it.dtype),
        jax.ShapeDtypeStruct((sms * each * it.box_rows, it.lanes), it.dtype),
    )

    def right(plan: np.ndarray, operands: list[np.ndarray], result: np.ndarray) -> bool:
        expected = kernels.expected_tile(steps, *operands[:2])
        return all(_near(of_block, expected, "float32") for of_block in result)

    for slots in (2, 8):
        name = f"tile_with_{slots}_slots"
        build = functools.partial(
            kernels.tiles, it.pixels, it.columns, it.consumers, it.taps, steps, slots, sms
        )  # fmt: skip
        plan = _plan(sms, sms, _distinct(each))
        run = Run(name, "clk", sizes.count(128), plan, _clocks(), {"slots": slots, "steps": steps})
        yield Question(name, "tiles", build, shapes, right, (run,))

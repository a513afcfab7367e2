"""Data Movement and Conversion Instructions: ld and st; Warp Level Matrix Instructions: ldmatrix and stmatrix."""

import numpy as np

from .. import memory_map
from ..arithmetic import SIGNED, UNSIGNED
from ..blocks import Active, Warp, lanes
from ..faults import Fault
from ..ptx import Mem, Operand
from .registry import executes


@executes(r"ld\.param(::entry)?\.[bu]64")
def load_parameter(cluster, warp, active, inst):
    """The address of a buffer. The parameter of tensor maps is none; its address is taken, by mov."""
    target, source = inst.args
    buffer = cluster.machine.launch.params[warp.kernel.program.params[source.base.name]]
    if buffer is None or source.offset:
        raise inst.unsupported()
    warp.registers[target.slot] = np.full(32, memory_map.of_buffer(buffer), np.uint64)


@executes(r"ld(\.global|\.shared(::cta)?)?(\.v[24])?\.[busf](8|16|32|64)")
def load(cluster, warp, active, inst):
    targets, source = _vector(inst.args[0]), inst.args[1]
    kind, size = inst.parts[-1][0], int(inst.parts[-1][1:]) // 8
    at = _aligned(warp, source, active, size * len(targets))
    if inst.parts[1].startswith("shared"):
        shared = warp.block.shared
        _load_shared(warp, at, size * len(targets), targets)
        cluster.counters["shared loads"] += 1
        fetch = lambda offset: shared.bytes.view(UNSIGNED[8 * size])[(at + offset) // size]
    else:
        fetch = lambda offset: cluster.global_memory.load(at + offset, size)
    for i, target in enumerate(targets):
        narrow = fetch(i * size)
        extended = narrow.view(SIGNED[8 * size]) if kind == "s" else narrow
        values: np.ndarray = np.zeros(32, UNSIGNED[target.width])
        values[lanes(active)] = extended.astype(UNSIGNED[target.width])
        before = warp.registers[target.slot]
        warp.registers[target.slot] = values if active is None or before is None else np.where(active, values, before)


@executes(r"st(\.global)?(\.v[24])?\.[busf](8|16|32|64)")
def store_global(cluster, warp, active, inst):
    sources, size = _vector(inst.args[1]), int(inst.parts[-1][1:]) // 8
    at = _aligned(warp, inst.args[0], active, size * len(sources))
    for i, source in enumerate(sources):
        values = warp.values(source, 8 * size)[lanes(active)].astype(UNSIGNED[8 * size])
        cluster.global_memory.store(at + i * size, size, values)
    cluster.counters["global stores"] += 1


@executes(r"st\.shared(::cta)?(\.v2\.b16|(\.v[24])?\.[busf](32|64))")
def store_shared(cluster, warp, active, inst):
    """Store whole words: the shadow of shared memory knows no smaller ones."""
    sources, size = _vector(inst.args[1]), int(inst.parts[-1][1:]) // 8
    at = _aligned(warp, inst.args[0], active, size * len(sources))
    index, shared = _words(at, size * len(sources)), warp.block.shared
    shared.check_store(warp, index)
    for i, source in enumerate(sources):
        shared.bytes.view(UNSIGNED[8 * size])[at // size + i] = warp.values(source, 8 * size)[lanes(active)]
    shared.stored(warp, index)
    cluster.counters["shared stores"] += 1


@executes(r"ldmatrix\.sync\.aligned\.m8n8\.x[124](\.trans)?\.shared(::cta)?\.b16")
def load_matrices(cluster, warp, active, inst):
    targets, shared = inst.args[0], warp.block.shared
    at = _rows(warp, inst.args[1], len(targets))
    _load_shared(warp, at, 16, targets)
    values = shared.words[_words(at, 16)].reshape(len(targets), 32)
    if "trans" in inst.parts:
        values = _transposed(values)
    for target, value, rows in zip(targets, values, at.reshape(len(targets), 8) >> 4, strict=True):
        warp.registers[target.slot] = value
        if warp.kernel.multiplies_registers:
            warp.loaded[id(value)] = value, rows
    cluster.counters["ldmatrix"] += 1


@executes(r"stmatrix\.sync\.aligned\.m8n8\.x[124](\.trans)?\.shared(::cta)?\.b16")
def store_matrices(cluster, warp, active, inst):
    sources, shared = inst.args[1], warp.block.shared
    at = _rows(warp, inst.args[0], len(sources))
    index = _words(at, 16)
    shared.check_store(warp, index)
    values = np.stack([warp.values(source, 32) for source in sources])
    shared.words[index] = (_transposed(values) if "trans" in inst.parts else values).reshape(-1)
    shared.stored(warp, index)
    cluster.counters["stmatrix"] += 1


def _vector(arg: Operand) -> tuple:
    return arg if isinstance(arg, tuple) else (arg,)


def _aligned(warp: Warp, mem: Mem, active: Active, size: int) -> np.ndarray:
    """The addresses of the active lanes; a vector is aligned as a whole (Vectors: "Vector alignment")."""
    at = warp.addresses(mem)[lanes(active)]
    if (at % size).any():
        raise Fault(f"address {at[at % size != 0][0]:#x} is no multiple of {size}")
    return at


def _rows(warp: Warp, mem: Mem, count: int) -> np.ndarray:
    """Rows of 8x8 matrices. Lanes 0 to 7 hold the addresses of the first one's rows, the next eight the second one's, ..."""
    at = warp.addresses(mem)[: 8 * count]
    if (at % 16).any():
        raise Fault(f"a row at {at[at % 16 != 0][0]:#x}, no multiple of 16")
    return at


def _words(at: np.ndarray, size: int) -> np.ndarray:
    """The indices of the words that `size` bytes at each address lie in."""
    return (at[:, None] + np.arange(0, size, 4)).reshape(-1) >> 2


def _load_shared(warp: Warp, at: np.ndarray, size: int, targets: tuple) -> None:
    warp.block.shared.check_range(int(at.min()), int(at.max()) + size)
    if any(target.slot in warp.kernel.read for target in targets):  # else nobody looks at it, and ptxas drops it
        warp.block.shared.load(warp, _words(at, size))


def _transposed(matrices: np.ndarray) -> np.ndarray:
    """[n, 32] registers, each an 8x8 matrix of 16 bits (a row: four lanes of two), transposed."""
    each = np.ascontiguousarray(matrices).view(np.uint16).reshape(-1, 8, 8).transpose(0, 2, 1)
    return np.ascontiguousarray(each).reshape(-1, 64).view(np.uint32)

"""The shared memory of a block, with a shadow that knows of each part who wrote it, how, and who has read it.

Words are of four bytes; chunks are of 16, the least that TMA, wgmma and ldmatrix take. Three things are checked:

- *What is there.* Nobody may read what nobody has written, or what an asynchronous copy is still writing.
- *Proxies* (PTX ISA, "Memory Consistency Model: Proxies"; "Async proxy"). TMA and wgmma read through the async proxy: what
  threads wrote through the generic proxy is theirs only after a fence.proxy.async of the writing warp.
- *Races* (PTX ISA, "Memory Consistency Model: Causality order"), by vector clocks, see `clocks`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .clocks import NEVER, NOBODY
from .faults import Fault
from .memory_map import STATIC_BASE

if TYPE_CHECKING:
    from .blocks import Warp

WRITTEN, GENERIC, IN_FLIGHT, MBARRIER = 1, 2, 4, 8  # of a word: GENERIC is written, and not fenced since
CHUNK_WRITTEN = 0x01010101  # the four words of a chunk, all WRITTEN and nothing else
POISON = 0xCB

type Index = slice | np.ndarray  # of words


class SharedMemory:
    """Shadow of words: state, owner, writer, written_at, read_at; of chunks: readers, multiplied_at.

    owner          the warp of the block whose generic write is not fenced
    writer         the component of vector clocks that wrote it, and `written_at`, the time it was then
    read_at        the time of each warp's last read, by a load, or by a TMA store that it has waited for
    readers        asynchronous reads under way
    multiplied_at  when each warp had waited for the last wgmma that reads it
    """

    def __init__(self, nbytes: int, first_warp: int, warps: int, each_warp_waits: bool):
        self.limit = STATIC_BASE + nbytes
        size = STATIC_BASE + -(-nbytes // 1024) * 1024
        self.bytes = np.full(size, POISON, np.uint8)
        self.words, self.chunks = self.bytes.view(np.uint32), self.bytes.reshape(-1, 16)
        self.warps, self.each_warp_waits = slice(first_warp, first_warp + warps), each_warp_waits
        self.name_of: Callable[[int], str] = str  # of a component

        self.state = np.zeros(size // 4, np.uint8)
        self.state_of_chunks = self.state.view(np.uint32)
        self.owner = np.zeros(size // 4, np.uint8)
        self.writer = np.full(size // 4, NOBODY, np.int16)
        self.written_at = np.zeros(size // 4, np.int32)
        self.read_at = np.zeros((warps, size // 4), np.int32)
        self.readers = np.zeros(size // 16, np.uint16)
        self.multiplied_at = np.zeros((warps, size // 16), np.int32)

    def check_range(self, low: int, high: int) -> None:
        if low < STATIC_BASE or high > self.limit:
            raise Fault(f"shared memory {low:#x}..{high:#x} outside {STATIC_BASE:#x}..{self.limit:#x}")

    # By threads.

    def load(self, warp: "Warp", index: np.ndarray) -> None:
        """A warp loads these words."""
        state = self.state[index]
        if (state & IN_FLIGHT).any():
            raise Fault("reads shared memory that an asynchronous copy is still writing")
        if not (state & WRITTEN).all():
            raise Fault("reads shared memory that nobody has written")
        self.check_read(warp, index)
        self.read_at[warp.index, index] = warp.time

    def check_store(self, warp: "Warp", index: np.ndarray) -> None:
        """A warp may store to these words."""
        self.check_range(int(index.min()) * 4, int(index.max()) * 4 + 4)
        if self.readers[index >> 2].any():
            raise Fault("writes shared memory that a TMA store or a wgmma not waited for still reads")
        if (self.state[index] & (IN_FLIGHT | MBARRIER)).any():
            raise Fault("writes shared memory that an asynchronous copy is writing, or an mbarrier")
        self.check_write(warp, index)

    def stored(self, warp: "Warp", index: np.ndarray) -> None:
        self.state[index] = WRITTEN | GENERIC
        self.owner[index] = warp.index
        self.writer[index] = warp.component
        self.written_at[index] = warp.time
        warp.unfenced.append(index)

    def fence(self, warp: "Warp") -> None:
        """fence.proxy.async: what this warp wrote is there for the async proxy."""
        for index in warp.unfenced:
            own = index[self.owner[index] == warp.index]
            self.state[own] &= ~np.uint8(GENERIC)
        warp.unfenced.clear()

    # By TMA and wgmma, for a warp.

    def check_async_read(self, warp: "Warp", words: slice, who: str) -> None:
        state = self.state[words]
        if (generic := (state & GENERIC) > 0).any():
            writers = sorted(set(self.owner[words][generic].tolist()))
            raise Fault(f"{who} reads shared memory that warps {writers} wrote, without fence.proxy.async")
        if (state & IN_FLIGHT).any():
            raise Fault(f"{who} reads shared memory that a TMA load is still writing")
        if (state != WRITTEN).any():
            raise Fault(f"{who} reads shared memory that nobody has written, or an mbarrier")
        self.check_read(warp, words)

    def check_async_write(self, warp: "Warp", words: slice) -> None:
        self.check_range(words.start * 4, words.stop * 4)
        if self.readers[words.start >> 2 : words.stop >> 2].any():
            raise Fault("TMA overwrites shared memory that a wgmma or a TMA store not waited for still reads")
        state = self.state[words]
        if (state & IN_FLIGHT).any():
            raise Fault("two TMA loads into the same shared memory at once")
        if (state & MBARRIER).any():
            raise Fault("TMA overwrites an mbarrier")
        if (state & GENERIC).any():
            raise Fault("TMA overwrites what threads wrote, without fence.proxy.async")
        self.check_write(warp, words)

    # Races.

    def check_read(self, warp: "Warp", index: Index) -> None:
        self._after_writes(warp, index, "reads")

    def check_write(self, warp: "Warp", index: Index) -> None:
        self._after_writes(warp, index, "overwrites")
        known = warp.clock.times[self.warps, None]
        if (late := (self.read_at[:, index] > known).any(1)).any():
            readers = np.flatnonzero(late).tolist()
            raise Fault(f"a race: overwrites what warps {readers} read, and has not waited for that")
        chunks = slice(index.start >> 2, index.stop >> 2) if isinstance(index, slice) else index >> 2
        over = self.multiplied_at[:, chunks] <= known  # so each warp has waited for its wgmma, and told
        of_warpgroups = over[: len(over) // 4 * 4].reshape(-1, 4, over.shape[1])
        told = of_warpgroups.all(1) if self.each_warp_waits else of_warpgroups.any(1)
        if not told.all():
            raise Fault("a race: overwrites what a wgmma reads, and has not waited for one that saw it end")

    def _after_writes(self, warp: "Warp", index: Index, what: str) -> None:
        writer = self.writer[index]
        late = self.written_at[index] > warp.clock.times[writer]
        if late.any():
            who = self.name_of(int(writer[np.argmax(late)]))
            raise Fault(f"a race: {what} what {who} wrote, and has not waited for that")

    def multiplies(self, warp_index: int, chunks: np.ndarray) -> None:
        """A wgmma that reads these has begun, and this warp has not waited for it."""
        self.multiplied_at[warp_index, chunks] = NEVER

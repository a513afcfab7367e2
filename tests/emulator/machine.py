"""A launch, executed: every cluster by itself, one after the other."""

import collections
from collections.abc import Iterable

import numpy as np

from . import memory_map
from .cluster import Cluster
from .faults import Fault, Unsupported
from .global_memory import GlobalMemory
from .kernel import Kernel
from .launch import Launch
from .timing import Timing


class Machine:
    """A GPU on which everything that is undefined on hardware is a `Fault`.

    buffers          bytes of operands and results, which the launch's parameters and tensor maps refer to
    each_warp_waits  a wgmma has read its operands for those warps only that waited for it themselves, see README.md
    """

    def __init__(
        self,
        kernel: Kernel,
        launch: Launch,
        buffers: list[np.ndarray],
        timing: Timing | None = None,
        each_warp_waits: bool = False,
    ):
        self.kernel, self.launch = kernel, launch
        self.timing, self.each_warp_waits = timing or Timing(), each_warp_waits
        self.counters: collections.Counter[str] = collections.Counter()
        self.shared_bytes = kernel.static_bytes + launch.dynamic_bytes
        most = memory_map.MOST_SHARED_KIB[kernel.program.target]
        if self.shared_bytes > most * 1024:
            raise Fault(f"a launch with {self.shared_bytes} bytes of shared memory, over {most} KiB")
        if launch.cluster[1:] != (1, 1) or launch.block[1:] != (1, 1) or launch.block[0] % 32:
            raise Unsupported(f"clusters of {launch.cluster} blocks, blocks of {launch.block} threads")
        if launch.grid[0] % launch.cluster[0]:
            raise Fault(f"a grid of {launch.grid} blocks in clusters of {launch.cluster[0]}")
        self.global_memory = GlobalMemory(buffers, launch.maps)

    @property
    def clusters(self) -> int:
        x, y, z = self.launch.grid
        return x * y * z // self.launch.cluster[0]

    def run(self, clusters: Iterable[int] | None = None) -> None:
        """clusters: which, all by default; -1 is the last."""
        with np.errstate(all="ignore"):
            for index in range(self.clusters) if clusters is None else clusters:
                Cluster(self, index % self.clusters * self.launch.cluster[0]).run()

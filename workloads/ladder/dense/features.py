"""Features that a case demands of the dense kernel: the rungs of the ladder, simplest first.

A feature is found in the case itself, not said of it, so that a case cannot stand lower on the ladder than it belongs.
"""

import dataclasses
import functools
from collections.abc import Callable

from pallas_conv.kernels.dense import work
from pallas_conv.kernels.dense.plan import Problem, Tiling, tiling

from ...configured import Case
from ..rung import held


@dataclasses.dataclass(frozen=True)
class Work:
    """A case as the kernel sees it: its problem once operands are prepared, its tiles, its steps."""

    case: Case

    @functools.cached_property
    def raw(self) -> Problem:
        return Problem.of(self.case.product)

    @functools.cached_property
    def problem(self) -> Problem:
        return self.raw.under(self.case.config)

    @functools.cached_property
    def tiling(self) -> Tiling:
        return tiling(self.raw, self.case.config)

    @property
    def units(self) -> int:
        """Tiles of clusters, of all phases."""
        return self.tiling.work_tiles

    @property
    def workers(self) -> int:
        return self.tiling.workers(self.case.num_sms)

    @functools.cached_property
    def steps(self) -> int:
        """Slots of the ring that are filled, by all workers."""
        cfg = self.case.config
        macs = (
            cfg.cluster
            * cfg.mma_warpgroups
            * cfg.tile_m
            * cfg.tile_n
            * cfg.tile_k
            * cfg.taps_per_step
            * self.tiling.halo_taps
        )
        return work.executed_macs(self.raw, cfg) // macs

    @property
    def skips(self) -> bool:
        """Whether any tile leaves out a tap that the others need."""
        everything = dataclasses.replace(self.case.config, skip_padding=False)
        return work.executed_macs(self.raw, self.case.config) < work.executed_macs(self.raw, everything)

    @property
    def ragged(self) -> bool:
        """Whether a tile ends beyond the pixels or the channels."""
        p, cfg = self.problem, self.case.config
        rows = zip((p.batch, *(d.rows for d in p.dims)), self.tiling.cta_pixels, strict=True)
        return bool(p.in_channels % cfg.tile_k or p.out_channels % cfg.tile_n) or any(n % extent for n, extent in rows)


FEATURES: dict[str, Callable[[Work], bool]] = {
    "one tile": lambda w: True,
    "two consumers": lambda w: w.case.config.mma_warpgroups > 1,
    "slots used again": lambda w: w.steps > w.case.config.stages * w.workers,
    "several blocks": lambda w: w.workers * w.case.config.cluster > 1,
    "more tiles than workers": lambda w: w.units > w.workers,
    "ring longer than the steps": lambda w: w.steps < w.case.config.stages * w.units,
    "several taps": lambda w: any(len(d.order) > 1 for d in w.problem.dims),
    "ragged edges": lambda w: w.ragged,
    "skipped taps": lambda w: w.skips,
    "no taps skipped": lambda w: not w.case.config.skip_padding,
    "bias or activation": lambda w: w.case.product.bias or w.case.product.activation is not None,
    "several staging buffers": lambda w: w.case.config.epi_stages > 1,
    "two outputs": lambda w: len(w.case.product.outputs) > 1,
    "16 columns staged": lambda w: w.case.config.epi_tile_n < 32,
    "less than 128 bytes a step": lambda w: w.case.config.tile_k * w.problem.itemsize < 128,
    "several taps a step": lambda w: w.case.config.taps_per_step > 1,
    "several images a tile": lambda w: w.case.config.tile_pixels[0] > 1,
    "input gradient": lambda w: w.case.product.role == "dgrad",
    "halo": lambda w: w.case.config.halo,
    "resident weights": lambda w: w.case.config.resident,
    "128 pixels a warpgroup": lambda w: w.case.config.tile_m == 128,
    "two blocks an SM": lambda w: w.case.config.ctas_per_sm > 1,
    "cluster": lambda w: w.case.config.cluster > 1,
    "strided": lambda w: any(d.in_stride > 1 for d in w.problem.dims),
    "phases": lambda w: w.problem.phases > 1,
    "groups": lambda w: w.problem.groups > 1,
    "wider result": lambda w: w.problem.out_itemsize > w.problem.itemsize,
    "split channels": lambda w: w.case.config.split_k > 1,
    "folded taps": lambda w: w.case.config.col2im_dims > 0,
    "unfolded taps": lambda w: w.case.config.im2col,
    "residual": lambda w: w.case.product.residual,
    "one dimension": lambda w: len(w.raw.dims) == 1,
    "three dimensions": lambda w: len(w.raw.dims) == 3,
    "TF32": lambda w: w.case.product.compute_dtype == "float32",
    "float16": lambda w: w.case.product.compute_dtype == "float16",
}


@functools.cache
def features(case: Case) -> tuple[str, ...]:
    """The features of a case, in the order of `FEATURES`; the last one is its rung."""
    return held(FEATURES, Work(case))

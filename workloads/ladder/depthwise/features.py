"""Features that a case demands of the depthwise kernel: the rungs of its ladder, simplest first.

A feature is found in the case itself, not said of it, so that a case cannot stand lower on the ladder than it belongs.
"""

import dataclasses
import functools
from collections.abc import Callable

from pallas_conv.kernels.depthwise import work
from pallas_conv.kernels.depthwise.plan import Config, Problem
from pallas_conv.kernels.depthwise.tiling import Tiling, tiling

from ...configured import Case
from ..rung import held


@dataclasses.dataclass(frozen=True)
class Work:
    """A case as the kernel sees it: its problem, its tiles, its strips."""

    case: Case

    @property
    def cfg(self) -> Config:
        found: Config = self.case.config
        return found

    @functools.cached_property
    def problem(self) -> Problem:
        return Problem.of(self.case.product)

    @functools.cached_property
    def tiling(self) -> Tiling:
        return tiling(self.problem, self.cfg)

    @property
    def workers(self) -> int:
        return self.tiling.workers(self.case.num_sms)

    @property
    def chunks(self) -> int:
        """Slots of the ring that are filled, by all workers."""
        return work.chunks(self.tiling)

    @property
    def ragged(self) -> bool:
        """Whether a tile ends beyond the pixels, a strip beyond the rows, or a block beyond the channels."""
        p, cfg = self.problem, self.cfg
        planes, rows, _ = cfg.tile_pixels
        extents = zip((d.rows for d in p.dims), (planes, rows, cfg.columns), strict=True)
        return bool(p.channels % cfg.channels or self.tiling.row_tiles % cfg.strip_tiles) or any(
            n % extent for n, extent in extents
        )


FEATURES: dict[str, Callable[[Work], bool]] = {
    "depthwise: one tile": lambda w: True,
    "depthwise: several blocks": lambda w: w.workers > 1,
    "depthwise: more strips than workers": lambda w: w.tiling.strips > w.workers,
    "depthwise: slots used again": lambda w: w.chunks > w.cfg.stages * w.workers,
    "depthwise: several blocks of channels": lambda w: w.tiling.channel_blocks > 1,
    "depthwise: several tiles a strip": lambda w: w.cfg.strip_tiles > 1,
    "depthwise: several rows a tile": lambda w: w.cfg.tile_pixels[1] > 1,
    "depthwise: several rows a chunk": lambda w: w.cfg.chunk_rows > 1,
    "depthwise: several fragments a row": lambda w: w.cfg.fragments > 1,
    "depthwise: consumers over channels": lambda w: w.cfg.channel_warpgroups > 1,
    "depthwise: consumers over columns": lambda w: w.cfg.column_warpgroups > 1,
    "depthwise: several taps": lambda w: w.problem.taps > 1,
    "depthwise: rows that two tiles read": lambda w: w.tiling.tile_chunks > w.tiling.advance,
    "depthwise: ragged edges": lambda w: w.ragged,
    "depthwise: padding": lambda w: any(reach.low < 0 for reach in w.tiling.reaches),
    "depthwise: two blocks an SM": lambda w: w.cfg.ctas_per_sm > 1,
    "depthwise: bias or activation": lambda w: w.case.product.bias or w.case.product.activation is not None,
    "depthwise: two outputs": lambda w: len(w.case.product.outputs) > 1,
    "depthwise: residual": lambda w: w.case.product.residual,
    "depthwise: wider result": lambda w: w.problem.out_itemsize > w.problem.itemsize,
    "depthwise: input gradient": lambda w: w.case.product.role == "dgrad",
    "depthwise: weight gradient": lambda w: w.problem.weight_sums,
    "depthwise: bias gradient": lambda w: w.problem.bias,
    "depthwise: many taps a row": lambda w: len(w.problem.column_moves) > w.problem.row_fragments,
    "depthwise: strided": lambda w: any(d.in_stride > 1 for d in w.problem.dims),
    "depthwise: phases": lambda w: len(w.problem.phases) > 1,
    "depthwise: phases without taps": lambda w: any(0 in d.count for d in w.problem.dims),
    "depthwise: dilated": lambda w: any(n > 1 for n in w.case.product.spec.kernel_dilation),
    "depthwise: channels of no whole 16 bytes": lambda w: w.problem.channels * w.problem.itemsize % 16 > 0,
    "depthwise: models": lambda w: w.case.product.models is not None,
    "depthwise: one dimension": lambda w: w.problem.ndim == 1,
    "depthwise: three dimensions": lambda w: w.problem.ndim == 3,
    "depthwise: several planes a tile": lambda w: w.cfg.tile_pixels[0] > 1,
    "depthwise: float32": lambda w: w.case.product.compute_dtype == "float32",
    "depthwise: float16": lambda w: w.case.product.compute_dtype == "float16",
    "depthwise: groups of several channels": lambda w: w.problem.group > 1,
    "depthwise: groups filled up with zeros": lambda w: (
        w.problem.group > min(w.problem.pixel_group, w.problem.output_group)
    ),
    "depthwise: whole backward pass": lambda w: w.problem.backward,
    "depthwise: derivative of an activation": lambda w: w.problem.derivative is not None,
}


@functools.cache
def features(case: Case) -> tuple[str, ...]:
    """The features of a case, in the order of `FEATURES`; the last one is its rung."""
    return held(FEATURES, Work(case))

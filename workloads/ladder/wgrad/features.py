"""Features that a case demands of the weight-gradient kernel: the rungs of its ladder, simplest first.

A feature is found in the case itself, not said of it, so that a case cannot stand lower on the ladder than it belongs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

from pallas_conv.kernels.wgrad import work
from pallas_conv.kernels.wgrad.plan import Config, Problem, Tiling, tiling

from ...configured import Case
from ..rung import held


@dataclasses.dataclass(frozen=True)
class Work:
    """A case as the kernel sees it: its problem once operands have their roles, its tiles, its steps."""

    case: Case

    @property
    def cfg(self) -> Config:
        found: Config = self.case.config
        return found

    @functools.cached_property
    def raw(self) -> Problem:
        return Problem.of(self.case.product)

    @functools.cached_property
    def tiling(self) -> Tiling:
        return tiling(self.raw, self.cfg)

    @property
    def problem(self) -> Problem:
        return self.tiling.problem

    @property
    def units(self) -> int:
        """Tiles of clusters, of all parts."""
        return self.tiling.work_tiles

    @property
    def workers(self) -> int:
        return self.tiling.workers(self.case.num_sms)

    @functools.cached_property
    def steps(self) -> int:
        """Slots of the ring that are filled, by all workers."""
        return work.all_steps(self.raw, self.cfg)

    @property
    def boxes(self) -> int:
        """Boxes that all pixels are walked in, where none is skipped."""
        extents = zip(self.problem.dims, self.cfg.step_pixels[1:], strict=True)
        return self.tiling.image_steps * math.prod(-(-d.rows // e) for d, e in extents)

    @property
    def ragged(self) -> bool:
        """Whether a box ends beyond the pixels, or a tile beyond the channels."""
        p, cfg = self.problem, self.cfg
        channels = p.in_channels % (cfg.tile_n * cfg.channel_loads) or p.out_channels % (64 * cfg.m_warpgroups)
        sizes = zip((p.batch, *(d.rows for d in p.dims)), cfg.step_pixels, strict=True)
        return bool(channels) or any(n % extent for n, extent in sizes)


FEATURES: dict[str, Callable[[Work], bool]] = {
    "wgrad: one tile": lambda w: True,
    "wgrad: consumers over output channels": lambda w: w.cfg.m_warpgroups > 1,
    "wgrad: slots used again": lambda w: w.steps > w.cfg.stages * w.workers,
    "wgrad: several blocks": lambda w: w.workers * w.cfg.cluster > 1,
    "wgrad: more tiles than workers": lambda w: w.units > w.workers,
    "wgrad: ring longer than the steps": lambda w: w.steps < w.cfg.stages * w.units,
    "wgrad: several loads of channels": lambda w: w.cfg.channel_loads > 1,
    "wgrad: consumers over loads of x": lambda w: w.cfg.n_warpgroups > 1,
    "wgrad: several taps": lambda w: any(len(d.order) > 1 for d in w.problem.dims),
    "wgrad: several taps a tile": lambda w: w.cfg.taps_per_tile > 1,
    "wgrad: fewer taps in the last tile": lambda w: math.prod(w.tiling.tap_loads) % w.cfg.taps_per_tile > 0,
    "wgrad: ragged edges": lambda w: w.ragged,
    "wgrad: padding": lambda w: any(min(d.offset) < 0 for d in w.problem.dims),
    "wgrad: skipped boxes": lambda w: min(work.steps_of_taps(w.raw, w.cfg)) < w.boxes,
    "wgrad: parts": lambda w: w.cfg.split_k > 1,
    "wgrad: several images a step": lambda w: w.cfg.step_pixels[0] > 1,
    "wgrad: halo": lambda w: w.cfg.halo,
    "wgrad: 128 pixels a step": lambda w: w.cfg.pixels > 64,
    "wgrad: dy in registers": lambda w: w.cfg.dy_registers,
    "wgrad: narrow x": lambda w: w.cfg.tile_n < 64,
    "wgrad: two blocks an SM": lambda w: w.cfg.ctas_per_sm > 1,
    "wgrad: x shared": lambda w: w.cfg.multicast == "x",
    "wgrad: dy shared": lambda w: w.cfg.multicast == "dy",
    "wgrad: strided": lambda w: any(d.in_stride > 1 for d in w.problem.dims),
    "wgrad: strides as channels": lambda w: w.cfg.space_to_depth,
    "wgrad: outputs of a row as channels": lambda w: w.cfg.row_outputs > 1,
    "wgrad: dilated": lambda w: any(s > 1 for s in w.case.product.spec.kernel_dilation),
    "wgrad: x and dy exchanged": lambda w: w.cfg.transposed,
    "wgrad: transposed": lambda w: any(s > 1 for s in w.case.product.spec.input_dilation),
    "wgrad: groups": lambda w: w.problem.groups > 1,
    "wgrad: examples": lambda w: w.problem.examples > 1,
    "wgrad: wider result": lambda w: w.case.product.out_dtype != w.case.product.compute_dtype,
    "wgrad: bias gradient": lambda w: w.problem.bias,
    "wgrad: one dimension": lambda w: len(w.raw.dims) == 1,
    "wgrad: three dimensions": lambda w: len(w.raw.dims) == 3,
    "wgrad: three products": lambda w: w.problem.terms > 1,
    "wgrad: float16": lambda w: w.case.product.compute_dtype == "float16",
}


@functools.cache
def features(case: Case) -> tuple[str, ...]:
    """The features of a case, in the order of `FEATURES`; the last one is its rung."""
    return held(FEATURES, Work(case))

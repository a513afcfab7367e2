"""Candidates of a product that differ: today's choice, and for each feature the best by the model with it otherwise.

The best six by the model would hardly differ, and share its errors. A model that is wrong about one thing, boxes over images
or what a cluster costs, is found out by a candidate which is like today's choice but for that.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pallas_conv.kernels import choice, serve
from pallas_conv.kernels.chips import chips
from pallas_conv.kernels.cost import Work, clocks
from pallas_conv.kernels.dense import DENSE, search
from pallas_conv.kernels.dense.legal import illegal
from pallas_conv.kernels.dense.plan import Config, Problem
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.packed_groups import PACKED_GROUPS
from pallas_conv.kernels.packed_groups.plan import Config as Packing
from pallas_conv.kernels.packed_groups.search import fastest, ways
from pallas_conv.spec import Product

MOST = 6  # with today's choice
SLOW = 1.5  # times the best by the model: what is slower is not worth a try

type Features = Mapping[str, Callable[[Any], Any]]

OF_DENSE: Features = {
    "images": lambda cfg: cfg.tile_pixels[0] > 1,
    "tile_pixels": lambda cfg: cfg.tile_pixels,
    "tile_n": lambda cfg: cfg.tile_n,
    "cluster": lambda cfg: cfg.cluster,
    "halo": lambda cfg: cfg.halo,
    "warpgroups": lambda cfg: (cfg.mma_warpgroups, cfg.ctas_per_sm),
    "resident": lambda cfg: cfg.resident,
    "split_k": lambda cfg: cfg.split_k,
    "depth": lambda cfg: (cfg.stages, cfg.epi_stages),
    "mapping": lambda cfg: (cfg.im2col, cfg.col2im_dims),
}


def features(config: Any) -> Features:
    """The features of configurations like this one: of packed groups their number, and those of the tile; else the fields."""
    if isinstance(config, Config):
        return OF_DENSE
    if isinstance(config, Packing):
        of_tile = {name: lambda cfg, of=of: of(cfg.tile) for name, of in features(config.tile).items()}
        return {"count": operator.attrgetter("count"), **of_tile}
    return {field.name: operator.attrgetter(field.name) for field in dataclasses.fields(config)}


class Candidate(NamedTuple):
    """A configuration to try.

    differs      from today's choice in these features
    modelled_us  on the first of the chips that the device may be
    """

    config: Any
    differs: tuple[str, ...]
    modelled_us: float


@functools.cache
def candidates(product: Product, gpu: Gpu, most: int = MOST) -> tuple[Candidate, ...]:
    """Today's choice and, where that is a tuned one, the model's; then others, the best by the model first.

    Where fewer differ from today's choice in one feature, there are more that differ from all the others in several.
    """
    today, family = serve.choose(product, gpu), serve.kernel(product, gpu).family
    problem = family.problem(product)
    first = dict.fromkeys((today, choice.best(family, problem, gpu)))
    pool = {*family.candidates(problem, gpu), *(_depths(problem, today, gpu) if family is DENSE else ())}
    pool |= {fastest(problem, way, gpu)[1] for way in ways(problem, gpu)} if family is PACKED_GROUPS else set()
    works = {cfg: family.work(problem, cfg, gpu) for cfg in pool.union(first)}
    likely = _ranked({cfg: works[cfg] for cfg in pool}, gpu)
    others = {cfg for feature in features(today) for cfg in _first_with_other(feature, today, likely)}
    chosen = [*first, *(cfg for cfg in likely if cfg in others and cfg not in first)][:most]
    for cfg in likely:
        if len(chosen) < most and all(set(differences(other, cfg)) - {"tile_pixels", "depth"} for other in chosen):
            chosen.append(cfg)
    chip = chips(gpu)[0]
    return tuple(Candidate(cfg, differences(today, cfg), chip.microseconds(clocks(works[cfg], chip))) for cfg in chosen)


def differences(a: Any, b: Any) -> tuple[str, ...]:
    return tuple(name for name, of in features(a).items() if of(a) != of(b))


def _ranked(works: Mapping[Any, Work], gpu: Gpu) -> list[Any]:
    """Configurations that are not slow, sorted by their worst regret over the chips that the device may be."""
    first, *others = chips(gpu)
    of_first = {cfg: clocks(works[cfg], first) for cfg in sorted(works, key=str)}
    quick = [cfg for cfg, took in of_first.items() if took <= SLOW * min(of_first.values())]
    regrets = choice.worst_regrets([[clocks(works[cfg], chip) for chip in (first, *others)] for cfg in quick])
    return [quick[i] for i in sorted(range(len(quick)), key=regrets.__getitem__)]


def _first_with_other(feature: str, today: Any, ranked: Iterable[Any]) -> Iterator[Any]:
    """The first that has a feature otherwise; of its depth, that alone: everything else sets that, too."""
    for cfg in ranked:
        found = differences(today, cfg)
        if feature in found and (feature != "depth" or found == ("depth",)):
            yield cfg
            return


def _depths(problem: Problem, today: Config, gpu: Gpu) -> Iterator[Config]:
    """Today's choice with fewer slots and more staging buffers, or the other way round."""
    for stages, epi_stages in search.DEPTHS:
        cfg = Config(**(vars(today) | {"stages": stages, "epi_stages": epi_stages}))
        if (stages > today.stages or epi_stages > today.epi_stages) and illegal(problem, cfg, gpu) is None:
            yield cfg

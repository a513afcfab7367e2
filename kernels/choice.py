"""Which tiling a product gets: the candidates, and the choice among them."""

import functools
import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from pallas_conv.spec import Product

from . import tuned
from .chips import Chip, chips
from .config import (
    H100_SMS,
    LEAST_WIDTH,
    Config,
    Problem,
    Tiling,
    illegal,
    illegal_fold,
    shared_memory,
    smem_limit,
    tiling,
)
from .cost import clocks, executed
from .work import Work, count

PRUNED = 1.2  # times the least clocks: configurations that are slower on the first chip are not priced on the others
CLOSE = 1.01  # times the least regret: the model does not tell such configurations apart


@functools.cache
def boxes(pixels: int, nd: int) -> tuple[tuple[int, ...], ...]:
    """All power-of-two boxes of so many pixels over (images, *pixels)."""
    if nd == 0:
        return ((pixels,),)
    sizes = [1 << i for i in range(pixels.bit_length())]
    return tuple((size, *rest) for size in sizes for rest in boxes(pixels // size, nd - 1))


def candidates(problem: Problem, num_sms: int = H100_SMS) -> Iterator[Config]:
    """A few hundred legal configurations, each with as many stages as fit (eight at most)."""
    last, least = problem.dims[-1], 32 // problem.itemsize
    yield from _candidates(problem, Config(()), num_sms)
    if least > problem.C and last.out_stride == 1 and last.count[0] > 1:
        yield from _candidates(problem, Config((), unfold=True), num_sms)
    if problem.K < LEAST_WIDTH:
        for fold in range(1, len(problem.dims) + 1):
            if illegal_fold(problem, few := Config((), fold=fold)) is None:
                yield from _candidates(problem, few, num_sms)


def _candidates(raw: Problem, mapping: Config, num_sms: int) -> Iterator[Config]:
    """The candidates of one mapping of taps to channels."""
    for pixels, tile in itertools.product((64, 128), list(_tiles(raw.under(mapping), mapping, num_sms))):
        for box in boxes(pixels, len(raw.dims)):
            if not (tile.halo and box[0] > 1):  # not legal, like others, and more than half of all
                yield from _divided(raw, tile, box, num_sms)


def _tiles(problem: Problem, mapping: Config, num_sms: int) -> Iterator[Config]:
    """Everything but pixels and parts: channels of a tile and of a step, what is loaded how, and who multiplies it."""
    lanes = 128 // problem.itemsize
    bk = min((lanes, lanes // 2, lanes // 4), key=lambda b: (-(-problem.C // b) * b, -b))
    counts = problem.dims[-1].count
    packed = max(t for t in range(1, lanes // bk + 1) if all(n % t == 0 for n in counts)) if bk >= problem.C else 1
    widths = {-(-problem.K // n // LEAST_WIDTH) * LEAST_WIDTH for n in range(1, problem.K // 64 + 2)}
    keeping = (False, True) if problem.K <= 128 and problem.G == 1 else (False,)
    for bn, halo, resident, cluster, (consumers, blocks) in itertools.product(
        sorted(n for n in widths if min(problem.K, 64) <= n <= 256), (False, True), keeping, (1, 2), ((2, 1), (1, 2))
    ):
        if (resident and cluster > 1) or cluster > num_sms:
            continue
        loads = {"bk": bk, "taps": 1 if resident else packed, "halo": halo, "resident": resident, "stages": 2}
        yield _but(mapping, bn=bn, consumers=consumers, cluster=cluster, blocks=blocks, **loads)


def _divided(raw: Problem, tile: Config, box: tuple[int, ...], num_sms: int) -> Iterator[Config]:
    """One tile with its channels in one part, and in several as long as there are few tiles."""
    for split in (1, 2, 4, 8):
        cfg = _but(tile, box=box, split=split)
        if illegal(raw, cfg):
            break
        t = tiling(raw, cfg)
        deep = _as_deep_as_fits(raw, cfg, t)
        if cfg.halo or deep.stages > 2:  # two stages hide a load's latency only where it serves several taps
            yield deep
        if 2 * t.units * raw.under(cfg).phases * cfg.cluster > split * num_sms * cfg.blocks:
            break  # undivided tiles fill half of the chip


# (stages, out_bufs), the best first: four stages hide a load's latency, then four buffers do more for the epilogue.
DEPTHS = (*((stages, 4) for stages in range(8, 3, -1)), *itertools.product(range(8, 1, -1), (2, 1)))


def _as_deep_as_fits(raw: Problem, cfg: Config, t: Tiling) -> Config:
    """With the first of `DEPTHS` for which there is shared memory."""
    seen, limit, rows = raw.under(cfg), smem_limit(cfg), (t.loads * math.prod(t.load_box), t.weights, t.kept)
    most = limit // (cfg.taps * (rows[0] + rows[1]) * cfg.bk * seen.itemsize)
    likely = (deep for deep in DEPTHS if deep[0] <= most)
    stages, out_bufs = next(deep for deep in likely if shared_memory(seen, cfg, *rows, *deep)[1] <= limit)
    return _but(cfg, stages=stages, out_bufs=out_bufs)


def _but(cfg: Config, **changes: Any) -> Config:
    """As `dataclasses.replace`, which takes thrice as long."""
    return Config(**(vars(cfg) | changes))


@functools.cache
def choose(product: Product, num_sms: int = H100_SMS, device_kind: str | None = None) -> Config:
    """The tuned configuration if there is one, else the best by the model."""
    return tuned.look_up(product, num_sms, device_kind) or best(Problem.of(product), num_sms, device_kind)


def best(problem: Problem, num_sms: int = H100_SMS, device_kind: str | None = None) -> Config:
    """The configuration of least worst regret over the chips that the device may be; if it was measured, the fastest.

    Of those within 1% the one that is fastest on the first chip is taken, and of equals the simplest. Configurations that
    execute over 1.5 times the fewest multiply-adds are left out, however fast the model, which is unmeasured, says they are.
    """
    first, *others = chips(num_sms, device_kind)
    likely = _likely([count(problem, cfg, num_sms) for cfg in candidates(problem, num_sms)], first)
    times = [[clocks(work, chip) for chip in (first, *others)] for work in likely]
    regrets = worst_regrets(times)
    most = CLOSE * min(regrets)
    close = [i for i, regret in enumerate(regrets) if regret <= most]
    return likely[min(close, key=lambda i: (times[i][0], *_plainness(likely[i])))].cfg


def _likely(found: list[Work], chip: Chip) -> list[Work]:
    """Those that execute few multiply-adds, and are not far behind the best on this chip."""
    fewest = min(map(executed, found))
    found = [work for work in found if executed(work) <= 1.5 * fewest]
    times = [clocks(work, chip) for work in found]
    most = PRUNED * min(times)
    return [work for work, time in zip(found, times, strict=True) if time <= most]


def worst_regrets(times: Sequence[Sequence[float]]) -> list[float]:
    """Of each row of times, one a chip: how much longer than the chip's best it takes, where that is most."""
    fastest = [min(on_chip) for on_chip in zip(*times, strict=True)]
    return [max(map(operator.truediv, row, fastest)) for row in times]


def _plainness(work: Work) -> tuple[float, ...]:
    """Lower is simpler: whole sums, blocks alone, few multiply-adds, boxes of one image, and of long lines."""
    cfg = work.cfg
    return cfg.split, cfg.cluster, executed(work), cfg.box[0], *(-e for e in reversed(cfg.box))

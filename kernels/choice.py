"""Which tiling a product gets: the candidates, and the choice among them."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

from pallas_conv.spec import Product

from . import tuned
from .config import H100_SMS, LEAST_WIDTH, Config, Problem, illegal, illegal_fold, shared_memory, smem_limit, tiling
from .cost import estimate


def boxes(pixels: int, nd: int) -> Iterator[tuple[int, ...]]:
    """All power-of-two boxes of so many pixels over (images, *pixels)."""
    if nd == 0:
        yield (pixels,)
        return
    for i in range(pixels.bit_length()):
        yield from ((1 << i, *rest) for rest in boxes(pixels >> i, nd - 1))


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
    """Of one mapping of taps to channels."""
    problem = raw.under(mapping)
    lanes = 128 // problem.itemsize
    bk = min((lanes, lanes // 2, lanes // 4), key=lambda b: (-(-problem.C // b) * b, -b))
    counts = problem.dims[-1].count
    packed = max(t for t in range(1, lanes // bk + 1) if all(n % t == 0 for n in counts)) if bk >= problem.C else 1
    widths = {-(-problem.K // n // LEAST_WIDTH) * LEAST_WIDTH for n in range(1, problem.K // 64 + 2)}
    keeping = (False, True) if problem.K <= 128 and problem.G == 1 else (False,)
    for bn, pixels, halo, resident, cluster, (consumers, blocks) in itertools.product(
        sorted(n for n in widths if min(problem.K, 64) <= n <= 256),
        (64, 128),
        (False, True),
        keeping,
        (1, 2),
        ((2, 1), (1, 2)),
    ):
        if (resident and cluster > 1) or cluster > num_sms:
            continue
        tile = dataclasses.replace(
            mapping,
            bn=bn,
            bk=bk,
            taps=1 if resident else packed,
            halo=halo,
            resident=resident,
            stages=2,
            consumers=consumers,
            cluster=cluster,
            blocks=blocks,
        )
        for box in boxes(pixels, len(problem.dims)):
            for split in (1, 2, 4, 8):
                cfg = dataclasses.replace(tile, box=box, split=split)
                if illegal(raw, cfg):
                    break
                t, seen, most = tiling(raw, cfg), raw.under(cfg), smem_limit(cfg)
                rows = t.loads * math.prod(t.load_box), t.weights, t.kept
                stages, out_bufs = next(deep for deep in DEPTHS if shared_memory(seen, cfg, *rows, *deep)[1] <= most)
                if halo or stages > 2:  # two stages hide a load's latency only where it serves several taps
                    yield dataclasses.replace(cfg, stages=stages, out_bufs=out_bufs)
                if 2 * t.units * problem.phases * cluster > split * num_sms * blocks:
                    break  # undivided tiles fill half of the chip


# (stages, out_bufs), the best first: four stages hide a load's latency, then four buffers do more for the epilogue.
DEPTHS = (*((stages, 4) for stages in range(8, 3, -1)), *itertools.product(range(8, 1, -1), (2, 1)))


@functools.cache
def choose(product: Product, num_sms: int = H100_SMS, device_kind: str | None = None) -> Config:
    """The tuned configuration if there is one, else the best by the model."""
    return tuned.look_up(product, num_sms, device_kind) or best(Problem.of(product), num_sms)


def best(problem: Problem, num_sms: int = H100_SMS) -> Config:
    """`choose` for the kernel's own description of a product.

    Configurations that execute over 1.5 times the fewest multiply-adds are left out, however fast the model, which is
    unmeasured, says they are.
    """
    found = [(estimate(problem, cfg, num_sms), cfg) for cfg in candidates(problem, num_sms)]
    fewest = min(modelled.macs for modelled, _ in found)
    found = [(modelled, cfg) for modelled, cfg in found if modelled.macs <= 1.5 * fewest]
    least = min(modelled.clocks for modelled, _ in found)
    close = [(modelled.macs, cfg) for modelled, cfg in found if modelled.clocks <= 1.02 * least]
    plain = lambda macs, cfg: (cfg.split, cfg.cluster, macs, cfg.box[0], *(-e for e in reversed(cfg.box)))
    _, cfg = min(close, key=lambda found: plain(*found))
    return cfg

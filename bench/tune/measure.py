"""The steps of a product: one for each candidate, which holds its result against float64, and one that times the right ones."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pallas_conv.doctor.plan import NO_KERNELS, lax_program
from pallas_conv.equation import Equation
from pallas_conv.formulations import STOCK
from pallas_conv.kernels import families, serve
from pallas_conv.kernels.chips import chips
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.lowering.execution import execute
from pallas_conv.spec import Product
from pallas_conv.target import Target
from pallas_conv.verify import timing
from pallas_conv.verify.check import hold, standard_deviations

from .. import gate, products
from ..runner import SKIPPED, Context, Program, Row, Skipped, Source, Step
from .differing import MOST, candidates

NO_TIME = f"{SKIPPED}an interpreted kernel has no time"
GAIN = 1.03  # of a configuration that takes the place of today's choice
ROUNDS = 3


class Wanted(NamedTuple):
    name: str
    product: Product


class Device(NamedTuple):
    """The device on which kernels run, or are interpreted."""

    target: Target
    gpu: Gpu
    dry: bool
    candidates: int = MOST


def ordered(wanted: Iterable[Wanted], device: Device) -> list[Wanted]:
    """Two-dimensional products of 16-bit operands first; of either part the longest first."""
    rest = lambda it: it.product.spec.ndim != 2 or it.product.compute_dtype == "float32"
    return sorted(wanted, key=lambda it: (rest(it), -least_us(it.product, device)))


def least_us(product: Product, device: Device) -> float:
    """Microseconds that useful work or the least traffic take at best, on the nominal chip."""
    size, chip = families.size(product), chips()[0]
    flops = chip.flops_clk * device.gpu.num_sms * chip.clock * 1e3 / (2 if product.compute_dtype == "float32" else 1)
    return max(2 * size.macs / flops, size.nbytes / (chip.dram_tbs * 1e6))


def steps(it: Wanted, device: Device) -> list[Step]:
    kernels = [_kernel(it, rank, device) for rank in range(device.candidates)]
    beside = {"stock": _lax(it, device, "xla")}
    if lax_program(it.product, device.target) != STOCK:
        beside["best"] = _lax(it, device, "auto")
    if products.beside(it.product, device.target):
        beside["beside"] = _lax(it, device, "auto", beside_kernels=True)
    drawn = Program(f"{it.name} operands", functools.partial(_drawn, it.product), alone=False)
    baseline = list(beside.values())[-1]
    checks = [functools.partial(_check, it=it, kernel=k, baseline=baseline, drawn=drawn) for k in kernels]
    time = functools.partial(_time, it=it, device=device, kernels=kernels, beside=beside, drawn=drawn)
    return [
        *(Step("tune", it.name, work, (k, baseline, drawn)) for work, k in zip(checks, kernels, strict=True)),
        Step("tuned", it.name, time, (*kernels, *beside.values(), drawn)),
    ]


# ------------------------------------------------------------ programs


def _kernel(it: Wanted, rank: int, device: Device) -> Program:
    make = functools.partial(_candidate, it.product, rank, device)
    return Program(f"{it.name} candidate {rank}", make, kernel=True, portable=not device.dry)


def _candidate(product: Product, rank: int, device: Device) -> Source:
    found = candidates(product, device.gpu, device.candidates)
    if rank >= len(found):
        raise Skipped(f"no more than {len(found)} candidates differ")
    it = found[rank]
    source = products.kernel("", serve.kernel(product, device.gpu, it.config), device.dry).make()
    about = {"rank": rank, "differs": it.differs, "modelled_us": it.modelled_us}
    return source._replace(about={**source.about, **about})


def _lax(it: Wanted, device: Device, implementation: str, beside_kernels: bool = False) -> Program:
    make = functools.partial(_without_kernels, it.product, device.target, implementation, beside_kernels)
    return Program(f"{it.name} {implementation}{' beside kernels' * beside_kernels}", make)


def _without_kernels(product: Product, target: Target, implementation: str, beside_kernels: bool) -> Source:
    run = functools.partial(execute, Equation.of(product, (implementation,), NO_KERNELS, beside_kernels), target)
    return Source(run, products.operands_of(product))


def _drawn(product: Product) -> Source:
    """Normal operands for a seed, scaled so that sums are of order one."""
    operands = list(zip(products.operands_of(product), standard_deviations(product), strict=True))

    def draw(seed: jax.Array) -> tuple[jax.Array, ...]:
        keys = jax.random.split(jax.random.key(seed, impl="rbg"), len(operands))
        normal = lambda key, a, scale: (jax.random.normal(key, a.shape, "float32") * np.float32(scale)).astype(a.dtype)
        return tuple(normal(key, *operand) for key, operand in zip(keys, operands, strict=True))

    return Source(draw, (jax.ShapeDtypeStruct((), "uint32"),))


# ------------------------------------------------------------ a candidate


def _check(context: Context, it: Wanted, kernel: Program, baseline: Program, drawn: Program) -> Iterator[Row]:
    built = context.compiled(kernel)
    operands = context.compiled(drawn).call(np.uint32(context.seed))
    yield from gate.poison(context)
    got = jax.block_until_ready(context.launch(kernel, *operands))
    context.alive()
    other = context.compiled(baseline).call(*operands)  # later: freed memory of it may hold the right result
    held = hold(it.product, operands, got, other, context.seed)
    yield {
        "status": "ok" if held.right else "wrong",
        "seed": context.seed,
        "difference": max(part for _, part in held.agreements),
        **dataclasses.asdict(held.worst),
        **built.about,
    }


# ------------------------------------------------------------ a product


def _time(
    context: Context,
    it: Wanted,
    device: Device,
    kernels: Sequence[Program],
    beside: Mapping[str, Program],
    drawn: Program,
) -> Iterator[Row]:
    """Time the candidates that were found right, and the programs beside them, in turns."""
    if context.dry:
        yield {"status": NO_TIME}
        return
    checked = [r for r in context.log.rows if (r["kind"], r["name"]) == ("tune", it.name)]
    config = serve.kernel(it.product, device.gpu).family.config
    right = {r["rank"]: config.from_json(r["config"]) for r in checked if r["status"] == "ok" and "rank" in r}
    if not right:
        raise Skipped("no candidate was found right")
    calls = {name: context.compiled(program).call for name, program in beside.items()}
    built = {rank: context.compiled(kernels[rank]) for rank in right}
    draw = context.compiled(drawn).call
    count = timing.copies(sum(math.prod(a.shape) * a.dtype.itemsize for a in products.operands_of(it.product)))
    operands = [jax.block_until_ready(draw(np.uint32(context.seed + i))) for i in range(count)]
    context.alive(kernel=True, **products.several(b.about for b in built.values()))
    times = timing.measure(calls | {str(rank): b.call for rank, b in built.items()}, operands, rounds=ROUNDS)
    yield tuned(it.product, device.target, device.gpu, right, times)


def tuned(
    product: Product, target: Target, gpu: Gpu, right: Mapping[int, Any], times: Mapping[str, timing.Timing]
) -> Row:
    """The row of a product.

    right: configurations by rank, 0 is today's choice. times: of them, of "stock", and of "best" and "beside" where the lax
    programs that `auto` takes, and takes beside kernels, are others.
    """
    us = {cfg: 1e3 * times[str(rank)].ms for rank, cfg in right.items()}
    fastest = min(us, key=us.__getitem__)
    today = right.get(0)
    kept = today if today and us[today] < GAIN * us[fastest] else fastest
    row: Row = {
        **products.about(serve.kernel(product, gpu, kept)),
        "kernel_us": us[kept],
        "lax": lax_program(product, target),
        "lax_us": 1e3 * times.get("best", times["stock"]).ms,
        "stock_us": 1e3 * times["stock"].ms,
        "source": " ".join({it.source: None for it in times.values()}),
        "timed": [{"config": cfg.to_json(), "us": took} for cfg, took in us.items()],
    }
    if "beside" in times:
        row |= {"lax_beside": products.beside(product, target), "lax_beside_us": 1e3 * times["beside"].ms}
    return row | ({"today": today.to_json(), "today_us": us[today], "gain": us[today] / us[fastest]} if today else {})

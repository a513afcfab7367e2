"""Orders doctor's checks so that each one lets `auto` take as many more wanted products as possible.

`auto` takes a kernel if its code path was found right, its epilogue, and a product near this one faster (see `trust`). So a
check speaks for many products, and most need none of their own.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..dispatch import plan, trust
from ..dispatch.record import Record, Timing
from ..equation import Equation, operands_of
from ..kernels import families
from ..kernels.family import Facts
from ..kernels.serve import Kernel
from ..spec import Product
from ..target import Target
from ..wanted import Use, Wanted

# Seconds of a check, one after the other. Measured by the CPU's clock on one core, compiling for an H100: 0.32 to trace and
# lower a kernel (10 of the suite; Python, so it holds up whatever else runs), 0.2 for what compares all pixels, 0.25 for 64
# pixels in float64 (9 of the suite). Measured beside an H200: 0.85 for a lax program, autotuning by cuDNN included (the mean of
# 89 of the suite). The 1.0 that XLA takes for a kernel and for what draws its operands is not in it: other cores do that
# meanwhile. Guessed: 0.5 for two programs timed for 15 ms, 5 rounds, twice, and 2 GB a second to the host and through NumPy.
CHECK_SECONDS = 0.32 + 0.85 + (0.2 + 0.25) + 0.5
BYTES_A_SECOND = 2e9
START_SECONDS = 15.0  # guessed: JAX and CUDA, and tiles chosen in MOST_PROCESSES
MOST_PROCESSES = 16


class Row(NamedTuple):
    """A wanted product. group: "suite" or "networks"; times: how often it occurs in the network."""

    group: str
    name: str
    times: int
    product: Product


def rows(wanted: Wanted) -> list[Row]:
    of_suite = [Row("suite", layer.name, 1, layer.product) for layer in wanted.suite]
    return of_suite + [Row("networks", _name(use), use.count, use.product) for use in wanted.networks]


def _name(use: Use) -> str:
    """A name like the suite's: "resnet50/f 64x56x56-256 k1x1", "wavenet/f 128x16384-256 k2 d8" where dilated.

    A stride is in it where channels, which are the same on either side of a depthwise layer, do not tell it from another.
    Readers of measurements tell these products apart by their names, so no two have the same one.
    """
    product, spec = use.product, use.product.spec
    joined = lambda sizes: "x".join(map(str, sizes))
    name = f"{use.network}/{product.role[0]} {joined((product.in_channels, *spec.in_spatial))}-{product.out_channels}"
    dilation = f" d{joined(spec.kernel_dilation)}" if max(spec.kernel_dilation) > 1 else ""
    stride = f" s{joined(spec.strides)}" if spec.groups > 1 and max(spec.strides) > 1 else ""
    return f"{name} k{joined(spec.kernel_spatial)}{stride}{dilation}"


@dataclasses.dataclass(frozen=True)
class Check:
    """A kernel to check: its configuration, what the check proves, and the lax program that `auto` takes otherwise.

    weight: how much the product is wanted, see `weights`; a product's checks share it. beside_kernels: whether that program is
    the one that `auto` takes where kernels serve other products of the same equation.
    """

    name: str
    kernel: Kernel
    facts: Facts
    rival: str
    weight: float
    beside_kernels: bool = False

    @property
    def product(self) -> Product:
        return self.kernel.product

    @property
    def family(self) -> str:
        """The family in whose record the outcome belongs."""
        return self.kernel.family.name

    @property
    def seconds(self) -> float:
        """Seconds that the check takes, estimated."""
        return CHECK_SECONDS + self.facts.size.nbytes / BYTES_A_SECOND


def weights(rows: Sequence[Row]) -> dict[Product, float]:
    """The weights of the products. Each group has weight 1: half is shared evenly, half in proportion to multiply-adds."""
    found = dict.fromkeys((row.product for row in rows), 0.0)
    for _, group in itertools.groupby(rows, lambda row: row.group):
        macs = [(row.product, row.times * families.size(row.product).macs) for row in group]
        total = sum(m for _, m in macs)
        for product, m in macs:
            found[product] += 0.5 / len(macs) + 0.5 * m / total
    return found


def checks(rows: Sequence[Row], target: Target) -> tuple[Check, ...]:
    """One check for each product that is wanted, and for each lax program that `auto` may take instead of its kernel.

    The target must be a GPU for which kernels are written.
    """
    names = {row.product: row.name for row in reversed(rows)}
    found = []
    for product, weight in weights(rows).items():
        found.append((names[product], plan.plan(product, target, ("mosaic",)).to_run, weight))
    configs = tiles([kernel.product for _, kernel, _ in found], target)
    under = [dataclasses.replace(kernel, given=config) for (_, kernel, _), config in zip(found, configs, strict=True)]
    found_checks = list[Check]()
    for (name, _, weight), kernel in zip(found, under, strict=True):
        programs = rivals(kernel.product, target)
        for rival, beside in programs.items():
            title = f"{name} beside kernels" if beside else name
            found_checks.append(Check(title, kernel, kernel.facts, rival, weight / len(programs), beside))
    return tuple(found_checks)


def rivals(product: Product, target: Target) -> dict[str, bool]:
    """Every lax program that `auto` may take instead of a kernel, and whether it takes that one beside kernels alone."""
    # A kernel for all gradients of a layer has none of them beside it.
    places = (False,) if product.role == "bwd" else (True, False)
    return {lax_program(product, target, beside): beside for beside in places}


def tiles(products: Sequence[Product], target: Target) -> list[Any]:
    """The configurations that `auto` would launch.

    Choosing takes a fifth of a second a product, and Python does it on one core alone: so several processes share them.
    """
    print(f"choosing tiles for {len(products)} products", file=sys.stderr, flush=True)
    fresh = multiprocessing.get_context("spawn")  # where CUDA runs, a fork is dead
    with concurrent.futures.ProcessPoolExecutor(min(MOST_PROCESSES, _cores()), fresh) as pool:
        return list(pool.map(functools.partial(_tile, target), products, chunksize=4))


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tile(target: Target, product: Product) -> Any:
    return plan.plan(product, target, ("mosaic",)).to_run.config


NO_KERNELS = "the kernel is held against what runs without it"


def lax_program(product: Product, target: Target, beside_kernels: bool = False) -> str:
    """The name of what `auto` takes where no kernel is trusted: a formulation, or those of all parts of the product.

    beside_kernels: whether kernels serve other products of the same equation.
    """
    equation = Equation.of(product, ("auto",), NO_KERNELS, beside_kernels)
    parts = plan.plans(equation, target, operands_of(product))
    return "+".join(str(part.lax) for part in parts)


# ---------------------------------------------------------------- the order


class Order(NamedTuple):
    """Checks in the order in which they run.

    needed: checks that prove something new. rest: those whose outcome follows from them, most wanted first.
    """

    needed: tuple[Check, ...]
    rest: tuple[Check, ...]


type Known = Mapping[str, Record]  # what is known of each family


def order(checks: Iterable[Check], known: Known | None = None) -> Order:
    """The checks in greedy order. Next is the one that settles most, by weight. known: what is settled already.

    A kernel that was found wrong stays so, and may take the GPU down: it is not among them.
    """
    known = known or {}
    checks = sorted((c for c in checks if not _wrong(c, known)), key=lambda check: -check.weight)
    if not checks:
        return Order((), ())
    weight, proves = np.array([check.weight for check in checks]), _proves(checks)
    settled = _settled(checks, known)
    needed: list[int] = []
    while True:
        after = settled[:, None] | proves
        gains = (after.all(0) & ~settled.all(0)) @ weight
        best = int(gains.argmax())
        if gains[best] <= 0:
            break
        needed.append(best)
        settled = after[:, best]
    rest = sorted(set(range(len(checks))) - set(needed))
    return Order(tuple(checks[i] for i in needed), tuple(checks[i] for i in rest))


def _wrong(check: Check, known: Known) -> bool:
    of_family = known.get(check.family)
    return of_family is not None and of_family.checks.get(check.facts.code_path, {}).get(check.facts.epilogue) is False


def _proves(checks: Sequence[Check]) -> np.ndarray:
    """An array [code path, epilogue, time; check; product]: whether the check proves that about the product."""
    paths = _equal([f"{check.family}: {check.facts.code_path}" for check in checks])
    epilogues = _equal([f"{check.family}: {check.facts.epilogue}" for check in checks])
    times = [[a.family == b.family and _times(made_up_timing(a), b) for b in checks] for a in checks]
    return np.array([paths, epilogues, times])


def _settled(checks: Sequence[Check], known: Known) -> np.ndarray:
    """An array [code path, epilogue, time; product]: whether a record says anything about that, be it "wrong" or "slow"."""
    found = np.zeros((3, len(checks)), bool)
    for i, check in enumerate(checks):
        if of_family := known.get(check.family):
            found[0, i] = check.facts.code_path in of_family.checks
            found[1, i] = any(check.facts.epilogue in by_epilogue for by_epilogue in of_family.checks.values())
            found[2, i] = any(_times(timing, check) for timing in of_family.timings)
    return found


def _equal(names: list[str]) -> np.ndarray:
    _, number = np.unique(names, return_inverse=True)
    return number[:, None] == number[None]


def _times(timing: Timing, check: Check) -> bool:
    """Whether a timing says anything about the product of a check."""
    same = (timing.series, timing.lax) == (check.facts.series, check.rival)
    return same and timing.size.distance(check.facts.size) <= trust.NEAR


# ---------------------------------------------------------------- what comes of it


def made_up_timing(check: Check) -> Timing:
    """A timing of a kernel that is twice as fast as the lax program."""
    return Timing(check.facts.series, check.facts.size, 1.0, 2.0, check.rival)


type Proofs = Mapping[str, trust.Proofs]  # of each family


def proofs(checks: Iterable[Check]) -> Proofs:
    """The proofs that `trust` would have if all of these were found right and faster."""
    found: dict[str, tuple[dict[str, dict[str, bool]], list[trust.Timed]]] = {}
    for check in checks:
        right, timed = found.setdefault(check.family, ({}, []))
        right.setdefault(check.facts.code_path, {})[check.facts.epilogue] = True
        timed.append(trust.Timed(made_up_timing(check), trust.MARGIN, "plan"))
    return {family: trust.Proofs(right, tuple(timed), "plan") for family, (right, timed) in found.items()}


def known_proofs(target: Target) -> Proofs:
    """The proofs that `trust` has of each family on a device."""
    return {family.name: trust.proofs(family.name, target) for family in families.FAMILIES}


def coverage(known: Proofs, checks: Iterable[Check], rows: Sequence[Row]) -> str:
    """A sentence for the user: the number of wanted products for which `auto` takes a kernel, given these proofs and checks.

    It must take the kernel wherever the product stands: all checks of it must have passed.
    """
    checks = list(checks)
    trusted = lambda c: c.family in known and known[c.family].look_up(c.facts, c.rival).trusted
    taken = {c.product for c in checks} - {c.product for c in checks if not trusted(c)}
    of = {group: [row.product in taken for row in rows if row.group == group] for group in ("suite", "networks")}
    suite, networks = (f"{sum(found)} of {len(found)}" for found in of.values())
    return f"{suite} products of the suite, {networks} of the networks"


def in_time(checks: Iterable[Check], seconds: float) -> Iterator[tuple[Check, float]]:
    """The checks that start before so many seconds have passed, each with the time when it is done; estimated."""
    done = START_SECONDS
    for check in checks:
        if done > seconds:
            return
        done += check.seconds
        yield check, done

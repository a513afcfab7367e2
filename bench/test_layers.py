"""`make bench`: every suite layer that fits a CPU, through channels-first equinox layers, one program beside the other.

stock   equinox
ours    the same layer after `pallas_conv.convert`, as "auto" runs it
best    the fastest of all formulations of its product, of a training step those of its products together
torch   PyTorch, where it is installed: with `best`, the measure of what is left to gain

f is the forward pass, d and w one gradient alone, fb a training step's forward and backward together. pytest-benchmark collects
and stores; each of its rounds of ours is preceded by one of the other programs, timed here, so that all see the same machine.
"""

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

import pallas_conv as pc
from pallas_conv import formulations
from workloads.cases import Case, suite

from . import torch_layers
from .chart import family
from .formulations import HALF_PRECISION, medians

SECONDS = 1.2  # a layer and direction, of all programs together
RACE_SECONDS = 0.2  # of all formulations of a product, to find the fastest
LEAST_ROUNDS, MOST_ROUNDS = 5, 40
QUICK = 0.02  # seconds; below, a program runs twice and the second run counts: what ran before it no longer matters
SLOW = 0.05  # seconds; above, a program runs in every so many rounds only, LEAST_ROUNDS times

type Program = Callable[..., Any]

WINNERS: dict[str, dict[str, str]] = {}  # layer: role: the fastest formulation, as far as measured in this session


def layers() -> Iterator[Case]:
    for case in suite():
        small = case.on_cpu()
        if small is not None:
            yield small
            for dtype in ("bfloat16", "float16") if small.name in HALF_PRECISION else ():
                yield dataclasses.replace(small, name=f"{small.name}_{dtype}", dtype=dtype)


def directions(case: Case) -> list[str]:
    """The training step last: it needs what was the fastest in each direction."""
    return [*case.directions, *["fb"] * (len(case.directions) > 1)]


@pytest.mark.parametrize(
    ("case", "direction"),
    [(case, direction) for case in layers() for direction in directions(case)],
    ids=lambda v: v.name if isinstance(v, Case) else v,
)
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")  # where a result is wrong
def test_layer(benchmark: Any, case: Case, direction: str) -> None:
    operands = case.arrays(direction)
    layer = case.stock(direction, convert=pc.convert)
    stock, stock_compile_s = compiled(case.stock(direction), operands)
    ours, ours_compile_s = compiled(layer, operands)
    plans = list(pc.explain(jax.jit(layer), *operands, device="cpu"))
    chosen = {p.product.role: str(p.formulation) for p in plans}
    want = reference(case, direction, operands, stock)
    assert_close(case, want, ours(*operands))

    fastest, best = (step if direction == "fb" else race)(case, plans, layer, operands, stock, ours)
    others = {"stock": stock}
    if best not in (None, stock, ours):
        others["best"] = best
        assert_close(case, want, best(*operands))
    in_torch = torch_layers.program(case, direction, operands)
    if in_torch is not None:
        assert_close(case, want, torch_layers.arrays(case, direction, in_torch()))

    programs = others | ({"torch": in_torch} if in_torch else {})
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    every = dict.fromkeys(programs, 1)
    number = itertools.count()

    def before() -> None:
        n = next(number)
        order = list(others)
        if in_torch:  # whatever runs next takes a few percent longer: each in its turn
            order.insert(n % (len(others) + 1), "torch")
        for name in order:
            if n % every[name] == 0:
                first = timed(programs[name], operands)
                seconds[name].append(timed(programs[name], operands) if first < QUICK else first)
                if name == "torch":
                    torch_layers.settle()
        if once < QUICK:
            timed(ours, operands)

    once = timed(ours, operands)
    before()
    slow = {name for name, found in seconds.items() if found[0] > SLOW}
    rounds = int(SECONDS / (2 * (once + sum(seconds[name][0] for name in seconds.keys() - slow))))
    rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, rounds))
    every |= dict.fromkeys(slow, rounds // LEAST_ROUNDS)
    benchmark.pedantic(lambda: jax.block_until_ready(ours(*operands)), setup=before, rounds=rounds)

    ms = {name: 1e3 * statistics.median(found) for name, found in seconds.items()}
    ms["ours"] = 1e3 * statistics.median(benchmark.stats.stats.data)
    if best is stock:
        ms["best"] = ms["stock"]
    if best is ours or ms.get("best", 0) > ms["ours"]:
        fastest, ms["best"] = chosen, ms["ours"]
    if direction != "fb":
        WINNERS.setdefault(case.name, {}).update(fastest)
    benchmark.extra_info |= {
        "layer": case.name,
        "network": case.network,
        "family": family(case),
        "direction": direction,
        "dtype": case.dtype,
        **{f"{name}_ms": ms.get(name) for name in ("stock", "ours", "best", "torch")},
        "ratio": ms["stock"] / ms["ours"],
        "products": [f"{role}: {name}" for role, name in chosen.items()],
        "best": [f"{role}: {name}" for role, name in fastest.items()],
        "stock_compile_s": stock_compile_s,
        "ours_compile_s": ours_compile_s,
    }


def race(case: Case, plans: Any, layer: Program, operands: Any, stock: Program, ours: Program) -> Any:
    """The formulation of the one product that is the fastest in the layer, and its program."""
    (plan,) = plans
    role = plan.product.role
    programs = {plan.formulation: ours}
    programs.setdefault(formulations.STOCK, stock)  # the same program as the layer's with this formulation
    for formulation in formulations.serving(plan.product):
        if formulation.name not in programs:
            programs[formulation.name], _ = compiled(layer, operands, {role: formulation.name})
    ms = medians(programs, operands, RACE_SECONDS)
    name = min(ms, key=lambda name: ms[name])
    return {role: name}, programs[name]


def step(case: Case, plans: Any, layer: Program, operands: Any, stock: Program, ours: Program) -> Any:
    """The fastest formulation of each product, and a training step with them; None where they were not measured."""
    fastest = WINNERS.get(case.name, {})
    if {p.product.role for p in plans} != set(fastest):
        return {}, None
    if all(p.formulation == fastest[p.product.role] for p in plans):
        return fastest, ours
    return fastest, compiled(layer, operands, fastest)[0]


@contextlib.contextmanager
def forced(by_role: Mapping[str, str]) -> Iterator[None]:
    """Lower everything inside with these formulations. `plan` looks the rules up on their package, where they are patched."""
    rules = formulations.choose

    def choose(product: Any, *where: Any) -> tuple[str, str]:
        return (by_role[product.role], "forced") if product.role in by_role else rules(product, *where)

    with mock.patch.object(formulations, "choose", choose):
        yield


def compiled(f: Program, operands: Any, by_role: Mapping[str, str] | None = None) -> tuple[Program, float]:
    """The program and the seconds it took to trace, lower and compile it."""
    anew = lambda *operands: f(*operands)  # of one function, JAX would find again what it lowered before
    start = time.perf_counter()
    with forced(by_role or {}):
        program = jax.jit(anew).lower(*operands).compile()
    return program, time.perf_counter() - start


def timed(f: Program, operands: Any) -> float:
    start = time.perf_counter()
    results = jax.block_until_ready(f(*operands))
    seconds = time.perf_counter() - start
    del results  # after the clock, as pytest-benchmark does: freeing large results takes long
    return seconds


def reference(case: Case, direction: str, operands: Any, stock: Program) -> list[np.ndarray]:
    """Stock's results, in float32: its bfloat16 gradient of a bias is wrong by a quarter over 65536 pixels."""
    if case.dtype != "float32":
        operands = [a.astype("float32") for a in operands]
        stock = jax.jit(dataclasses.replace(case, dtype="float32").stock(direction))
    return [np.asarray(a) for a in jax.tree.leaves(stock(*operands))]


def assert_close(case: Case, want: list[np.ndarray], results: Any) -> None:
    """A wrong result has no time."""
    tolerance = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 3e-3}[case.dtype]
    for a, b in zip(want, jax.tree.leaves(results), strict=True):
        assert np.abs(a - np.asarray(b, "float32")).max() <= tolerance * np.abs(a).max()

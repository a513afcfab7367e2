"""`make bench`: every suite layer that fits a CPU, stock equinox beside `pallas_conv.convert`, through channels-first layers.

pytest-benchmark collects and stores; each of its rounds is preceded by one of stock's, timed here, so that both see the same
machine. f is the forward pass, d and w one gradient alone, fb a training step's forward and backward together.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

import pallas_conv as pc

from .cases import Case, suite
from .formulations import HALF_PRECISION

SECONDS = 1.0  # a layer and direction, of both programs together
LEAST_ROUNDS, MOST_ROUNDS = 3, 30


def layers() -> Iterator[Case]:
    for case in suite():
        small = case.on_cpu()
        if small is not None:
            yield small
            for dtype in ("bfloat16", "float16") if small.name in HALF_PRECISION else ():
                yield dataclasses.replace(small, name=f"{small.name}_{dtype}", dtype=dtype)


def directions(case: Case) -> str:
    return case.directions if case.per_example or len(case.directions) == 1 else case.directions + "*"


@pytest.mark.parametrize(
    ("case", "direction"),
    [(case, "fb" if d == "*" else d) for case in layers() for d in directions(case)],
    ids=lambda v: v.name if isinstance(v, Case) else v,
)
def test_layer(benchmark: Any, case: Case, direction: str) -> None:
    operands = case.arrays(direction)
    stock, ours = (_compiled(f, operands) for f in (case.stock(direction), case.stock(direction, convert=pc.convert)))
    for a, b in zip(jax.tree.leaves(stock(*operands)), jax.tree.leaves(ours(*operands)), strict=True):
        largest = np.abs(np.asarray(a, "float32")).max()
        assert np.abs(np.asarray(a, "float32") - np.asarray(b, "float32")).max() <= _tolerance(case) * largest
    stock_ms: list[float] = []

    def before() -> None:
        start = time.perf_counter()
        jax.block_until_ready(stock(*operands))
        stock_ms.append(1e3 * (time.perf_counter() - start))

    before()
    rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS, int(1e3 * SECONDS / (2 * stock_ms.pop()))))
    benchmark.pedantic(lambda: jax.block_until_ready(ours(*operands)), setup=before, rounds=rounds, warmup_rounds=1)
    ms = 1e3 * statistics.median(benchmark.stats.stats.data)
    benchmark.extra_info |= {
        "layer": case.name,
        "network": case.network,
        "direction": direction,
        "dtype": case.dtype,
        "stock_ms": statistics.median(stock_ms[1:]),
        "ours_ms": ms,
        "ratio": statistics.median(stock_ms[1:]) / ms,
        "threads": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        "products": [f"{p.product.role}: {p.formulation}" for p in _plans(case, direction, operands)],
    }


def _compiled(f: Callable[..., Any], operands: tuple[Any, ...]) -> Callable[..., Any]:
    return jax.jit(f).lower(*operands).compile()


def _plans(case: Case, direction: str, operands: tuple[Any, ...]) -> Any:
    return pc.explain(jax.jit(case.stock(direction, convert=pc.convert)), *operands, device="cpu")


def _tolerance(case: Case) -> float:
    return {"float32": 1e-4, "bfloat16": 4e-2, "float16": 1e-2}[case.dtype]

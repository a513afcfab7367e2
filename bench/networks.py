"""Whole training steps on this CPU: networks in stock equinox, and the same models through `pallas_conv.convert`.

    python -m bench.networks --out out/networks_cpu.json
    python -m bench.networks --profile unet3d

The models are those of `workloads.models`, float32: published depths, a quarter of the published channels but at least 16,
batches of four 64x64 images, 32x32x32 volumes or sequences. A step is forward, backward and optimiser. Stock's and ours take
turns, and take turns at going first. The first steps are compared instead of timed: where they disagree no time is reported.
"""

import argparse
import collections
import dataclasses
import json
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import pallas_conv as pc
from pallas_conv import formulations
from pallas_conv.dispatch.explain import describe
from pallas_conv.dispatch.plan import Plan
from pallas_conv.verify.verdict import summands
from workloads.models import DIVIDE, IMAGES, NETWORKS, Network
from workloads.programs import operands, programs, timed_as

from .formulations import machine, medians

GATED = 3  # steps whose losses are compared
LEAST_STEPS = 5  # timed, of each
PRODUCT_SECONDS = 0.2  # of a product, in a profile


@dataclasses.dataclass
class Training:
    """A model being trained, and what was seen on the way.

    step       the compiled step: (*carried, *batch) -> (*carried, loss)
    carried    the arrays of the model, the state of the optimiser
    compile_s  seconds from the Python function to the compiled one
    """

    step: Callable[..., Any]
    carried: tuple[Any, Any]
    compile_s: float
    losses: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, network: Network, model: Any, batch: tuple[Any, ...]) -> "Training":
        arrays, static = eqx.partition(model, eqx.is_array)

        def step(arrays: Any, state: Any, *batch: Any) -> tuple[Any, Any, Any]:
            model, state, loss = network.step(eqx.combine(arrays, static), state, *batch)
            return eqx.filter(model, eqx.is_array), state, loss

        carried = (arrays, network.start(model))
        start = time.perf_counter()
        compiled = jax.jit(step).lower(*carried, *batch).compile()
        return cls(compiled, carried, time.perf_counter() - start)

    def advance(self, batch: tuple[Any, ...]) -> None:
        start = time.perf_counter()
        arrays, state, loss = jax.block_until_ready(self.step(*self.carried, *batch))
        self.seconds.append(time.perf_counter() - start)
        self.carried = (arrays, state)
        self.losses.append(float(loss))


# ---------------------------------------------------------------- the gate


def tolerance(plans: list[Plan]) -> float:
    """A bound on the distance of two float32 training steps.

    A sum of n terms in another order is about sqrt(n) roundings off, and the products' errors at worst add up.
    """
    return float(jnp.finfo("float32").eps) * sum(math.sqrt(summands(plan.product)) for plan in plans)


def relative_difference(stock: Any, ours: Any) -> float:
    """|stock - ours| / |stock|, of all floating-point numbers of two trees together."""
    a, b = (
        np.concatenate(
            [np.ravel(np.asarray(x, "float64")) for x in jax.tree.leaves(eqx.filter(t, eqx.is_inexact_array))]
        )
        for t in (stock, ours)
    )
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def gate(stock: Training, ours: Training, batch: tuple[Any, ...]) -> dict[str, Any]:
    """The largest distances of the first steps: of loss, new weights, and the optimiser's state, which holds the gradients.

    Each of our steps starts from stock's weights of that step. In a run of our own, rounding grows with every step: where it
    turns a relu on, the optimiser takes another way, as stock does when its weights are an ulp larger. That is the drift.
    """
    steps = []
    for _ in range(GATED):
        found = ours.step(*jax.tree.unflatten(jax.tree.structure(ours.carried), jax.tree.leaves(stock.carried)), *batch)
        stock.advance(batch)
        ours.advance(batch)
        expected = (*stock.carried, jnp.float32(stock.losses[-1]))
        steps.append([relative_difference(*pair) for pair in zip(expected, found, strict=True)])
    largest = np.max(steps, axis=0).tolist()  # NaN if one is
    return {
        "losses": {"stock": stock.losses.copy(), "ours": ours.losses.copy()},
        "drift": abs(stock.losses[-1] - ours.losses[-1]) / abs(stock.losses[-1]),
        "differences": dict(zip(("weights", "gradients", "loss"), largest, strict=True)),
    }


# ---------------------------------------------------------------- measurement


def explain(network: Network, model: Any, batch: tuple[Any, ...]) -> list[Plan]:
    return list(pc.explain(network.step, model, network.start(model), *batch, device="cpu"))


def measure(
    network: Network, seconds: float, divide: int = DIVIDE, images: int = IMAGES, least_steps: int = LEAST_STEPS
) -> dict[str, Any]:
    """One row: what was compared, and where that agrees, milliseconds of a step and stock's by ours, pair by pair."""
    stock_model = network.build(jax.random.key(0), divide)
    batch = network.batch(jax.random.key(1), images)
    model = pc.convert(stock_model)
    plans = explain(network, model, batch)
    stock, ours = (Training.of(network, m, batch) for m in (stock_model, model))
    row = {
        "name": network.name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))),
        "compile_s": {"stock": round(stock.compile_s, 2), "ours": round(ours.compile_s, 2)},
        "products": served(plans),
        "tolerance": tolerance(plans),
        **gate(stock, ours, batch),
    }
    if not all(difference <= row["tolerance"] for difference in row["differences"].values()):
        return row | {"status": "wrong"}
    return row | {"status": "ok"} | race(stock, ours, batch, seconds, least_steps)


def served(plans: list[Plan]) -> dict[str, dict[str, int]]:
    """Number of products of each role that each formulation serves."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for plan in plans:
        found[plan.product.role][str(plan.formulation)] += 1
    return {role: dict(counts.most_common()) for role, counts in found.items()}


def race(
    stock: Training, ours: Training, batch: tuple[Any, ...], seconds: float, least_steps: int
) -> dict[str, float | int]:
    start, first = time.perf_counter(), len(stock.seconds)
    while len(stock.seconds) - first < least_steps or time.perf_counter() - start < seconds:
        for training in (stock, ours) if len(stock.seconds) % 2 else (ours, stock):
            training.advance(batch)
    a, b = (np.array(training.seconds[first:]) for training in (stock, ours))
    low, ratio, high = np.percentile(a / b, [25, 50, 75])
    return {
        "steps": len(a),
        "stock_ms": 1e3 * statistics.median(a),
        "ours_ms": 1e3 * statistics.median(b),
        "ratio": float(ratio),
        "low": float(low),
        "high": float(high),
    }


def summary(row: Mapping[str, Any]) -> str:
    if row["status"] != "ok":
        apart = ", ".join(f"{name} {difference:.1e}" for name, difference in row["differences"].items())
        return f"{row['name']:14} WRONG: {apart} apart, where float32 explains {row['tolerance']:.1e}"
    return (
        f"{row['name']:14} {row['stock_ms']:8.1f} ms stock {row['ours_ms']:8.1f} ms ours {row['ratio']:6.2f}x "
        f"({row['low']:.2f} to {row['high']:.2f}, {row['steps']} steps)"
    )


# ---------------------------------------------------------------- profile


@dataclasses.dataclass(frozen=True)
class Line:
    """A product of a training step by itself: how often it occurs, and milliseconds of each program."""

    plan: Plan
    count: int
    ms: dict[str, float]

    @property
    def stock(self) -> float:
        return self.count * self.ms[formulations.STOCK]

    @property
    def ours(self) -> float:
        return self.count * self.ms[self._timed]

    @property
    def _timed(self) -> str:
        return timed_as(str(self.plan.formulation))

    def __str__(self) -> str:
        fastest = min(self.ms, key=self.ms.__getitem__)
        better = f"  {fastest}: {self.count * self.ms[fastest]:.2f}" if fastest != self._timed else ""
        what = describe(self.plan).splitlines()[0]
        return f"{self.stock:9.2f} {self.ours:9.2f}  {self.count:3} x {what}: {self.plan.formulation}{better}"


def profile(plans: list[Plan], *, every: bool) -> list[Line]:
    """Every distinct product, those first that take the longest in our step."""
    bare = [
        dataclasses.replace(
            plan, product=dataclasses.replace(plan.product, bias=False, activation=None, outputs=("y",))
        )
        for plan in plans
    ]
    counts = collections.Counter(plan.product for plan in bare)
    lines = []
    for plan in tqdm({plan.product: plan for plan in bare}.values(), unit="product"):
        fs = programs(plan.product)
        if not every:
            fs = {name: f for name, f in fs.items() if name in (formulations.STOCK, plan.formulation)}
        lines.append(Line(plan, counts[plan.product], medians(fs, operands(plan.product), PRODUCT_SECONDS)))
        jax.clear_caches()
    return sorted(lines, key=lambda line: -line.ours)


def print_profile(network: Network, seconds: float, *, every: bool, rows: int = 30) -> None:
    """The step beside its products, each by itself: what is left is norms, activations, pools and the optimiser."""
    step = measure(network, seconds)
    print(summary(step))
    model = pc.convert(network.build(jax.random.key(0), DIVIDE))
    plans = explain(network, model, network.batch(jax.random.key(1), IMAGES))
    lines = profile(plans, every=every)
    print(f"{sum(x.stock for x in lines):9.1f} {sum(x.ours for x in lines):9.1f}  ms: {len(plans)} products, alone")
    if every:
        print(f"{sum(x.count * min(x.ms.values()) for x in lines):19.1f}  ms: with the fastest program for each")
    print("    stock      ours  ms")
    print("\n".join(map(str, lines[:rows])))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.networks", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, help="the JSON document (default: out/networks_cpu.json)")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, help="these networks")
    parser.add_argument("--seconds", type=float, default=20, help="of timed steps, a network (default: %(default)s)")
    parser.add_argument("--profile", choices=NETWORKS, help="print what takes the time in one network's step instead")
    parser.add_argument("--every", action="store_true", help="profile every formulation of the products")
    args = parser.parse_args(argv)
    if args.profile:
        print_profile(NETWORKS[args.profile], args.seconds, every=args.every)
        return 0
    out = args.out or pathlib.Path("out/networks_cpu.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": machine(), "networks": []}
    for name in tqdm(args.only or NETWORKS, unit="network"):
        document["networks"].append(measure(NETWORKS[name], args.seconds))
        tqdm.write(summary(document["networks"][-1]))
        out.write_text(json.dumps(document, indent=1) + "\n")
        jax.clear_caches()
    return int(any(row["status"] != "ok" for row in document["networks"]))


if __name__ == "__main__":
    sys.exit(main())

"""Training steps of whole networks on a GPU: stock equinox, the same model converted, and that with kernels.

    python -m bench.gpu_networks --minutes 6 --networks resnet50,unet

The models are those of `workloads.models` at published channels, batches and sizes. They compute in bfloat16; their weights and
the optimiser's state are float32, and their buffers are donated. Programs take turns. Their first steps are compared before.

Rows have the kind "network", the network's name, and an impl: "stock"; "lax", converted, with no kernel trusted; "auto",
converted, as it comes; "mosaic", converted, under ("mosaic", "auto").

    ms, low, high, samples, ratio    of a step by the clock: median and quartiles; stock's median by this one
    compile_s                        from the Python function to the compiled one
    temp_bytes, argument_bytes       compiled, not measured: what XLA needs beside the arguments, and the arguments
    loss, difference, bound          of the first step; how far from stock's it is and may be, as a part of stock's
    update_difference, update_bound  the same of the change of the weights, by its norm
    images, side                     of the batch
    products, kernels                of a step, and how many of them are kernels
"""

import argparse
import contextlib
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

import pallas_conv as pc
from pallas_conv.dispatch import trust
from pallas_conv.dispatch.plan import Plan
from pallas_conv.verify import check
from workloads.models import NETWORKS, resnet
from workloads.models.common import Network, Scale

from . import products, runner
from .runner import log
from .runner.script import LOSSES

MEASURED: dict[str, Network] = {
    "resnet50": resnet.RESNET50,
    "unet": NETWORKS["unet"],
    "unet3d": NETWORKS["unet3d"],
}
PREFERENCES: dict[str, str | tuple[str, ...]] = {
    "stock": "xla",
    "lax": "auto",
    "auto": "auto",
    "mosaic": ("mosaic", "auto"),
}
DRY = {"resnet50": Scale(2, 32), "unet": Scale(2, 32), "unet3d": Scale(1, 16)}
DRY_DIVIDE = 64  # of the channels
STEP_SECONDS = 180  # without a sign of life: a network is compiled in one piece
RACE_SECONDS = 8.0  # of timed steps, a network
LEAST_ROUNDS = 5
ROUNDING = 2.0**-9  # half the distance of neighbours in bfloat16, as a part of a number
DRAWS = 4  # of weights rounded otherwise

type Carried = tuple[Any, Any]  # the arrays of a model and the optimiser's state


# ---------------------------------------------------------------- what is trained


class HalfPrecision(eqx.Module):
    """A model that computes in bfloat16 from float32 weights."""

    model: Any

    def __call__(self, x: Array) -> Array:
        half = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, self.model)
        return half(x.astype(jnp.bfloat16)).astype(jnp.float32)


def build(network: Network, divide: int = 1) -> Any:
    """The network in stock equinox, its channels divided."""
    return HalfPrecision(network.build(jax.random.key(0), divide))


class Step:
    """A training step as a function of arrays: (*carried, *batch) -> (*carried, loss). The model may be one of shapes."""

    def __init__(self, network: Network, model: Any, preference: str | tuple[str, ...], trusting: bool = True):
        """trusting: whether records of hardware runs count; without them `auto` takes lax programs."""
        self._network, self._preference = network, preference
        self._known = contextlib.nullcontext() if trusting else mock.patch.object(trust, "proofs", _no_proofs)
        self._weights, self._static = eqx.partition(model, _is_array)

    def __call__(self, weights: Any, state: Any, *batch: Array) -> tuple[Any, Any, Array]:
        with pc.implementation(self._preference):
            model, state, loss = self._network.step(eqx.combine(weights, self._static), state, *batch)
        return eqx.filter(model, eqx.is_array), state, loss

    def start(self, weights: Any) -> Carried:
        return weights, self._network.start(eqx.combine(weights, self._static))

    @property
    def shapes(self) -> Carried:
        return jax.eval_shape(self.start, self._weights)

    def compile(self, *batch: Any, sharding: Any = None) -> jax.stages.Compiled:
        place = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)
        with self._known:
            lowered = jax.jit(self, donate_argnums=(0, 1)).lower(*jax.tree.map(place, (*self.shapes, *batch)))
        return lowered.compile()

    def plans(self, device: Any, *batch: Any) -> tuple[Plan, ...]:
        with self._known:
            return pc.explain(self, *self.shapes, *batch, device=device).plans


def _no_proofs(family: str, target: Any) -> trust.Proofs:
    return trust.Proofs({}, (), str(target.device_kind))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def steps_of(network: Network, model: Any) -> dict[str, Step]:
    """The programs of a stock model."""
    convert = lambda impl: model if impl == "stock" else pc.convert(model)
    return {impl: Step(network, convert(impl), wanted, impl != "lax") for impl, wanted in PREFERENCES.items()}


def of_kernels(plans: Iterable[Plan]) -> runner.Row:
    """The fields of a program's kernels, for its row should it hang or crash; none where it has no kernels."""
    served = [plan for plan in plans if plan.implementation == "mosaic"]
    found = products.several(products.about(plan.to_run) for plan in served)
    return found | {"kernel": True} if found else {}


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes that a program needs, as its compiler says."""
    found: Any = compiled.memory_analysis()
    return {"temp_bytes": found.temp_size_in_bytes, "argument_bytes": found.argument_size_in_bytes}


class Training:
    """A compiled training step and the arrays it starts from, of which it is given copies."""

    def __init__(self, step: Step, carried: Carried, batch: tuple[Array, ...]):
        """`carried` may be another program's, of the same model."""
        start = time.perf_counter()
        self.program = step.compile(*batch)
        self.compile_s = round(time.perf_counter() - start, 2)
        self.batch = batch
        self.carried = jax.tree.unflatten(jax.tree.structure(step.shapes), jax.tree.leaves(carried))

    def first(self, weights: Any = None) -> tuple[float, list[Array]]:
        """The loss of a step from these weights, and how it changes them; vectors, as biases, are left out."""
        weights = self.carried[0] if weights is None else weights
        changed, _, loss = self.program(*_copy((weights, self.carried[1])), *self.batch)
        return float(loss), _change(jax.tree.leaves(changed), jax.tree.leaves(weights))

    def steps(self) -> Iterator[float]:
        """Milliseconds of one step after the other."""
        carried = _copy(self.carried)
        while True:
            start = time.perf_counter()
            *carried, _ = jax.block_until_ready(self.program(*carried, *self.batch))
            yield 1e3 * (time.perf_counter() - start)


@jax.jit
def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


@jax.jit
def _change(new: list[Array], old: list[Array]) -> list[Array]:
    """The change of all arrays that are not vectors."""
    return [a - b for a, b in zip(new, old, strict=True) if a.size > a.shape[0]]


# ---------------------------------------------------------------- the first step, compared


class Reference:
    """The results of stock's training step, and bounds on how far a right program may be from them.

    Right programs differ in how results are rounded to bfloat16: each by half the distance of its neighbours, differently at
    every pixel. Weights rounded otherwise move a step further, since they are the same for all pixels and images, so nothing
    averages out. Some draws of them show how far stock is from itself. The bound of the loss, whose difference may happen to
    be small, is four times their root mean square, that of the weights' change, a norm, twice.
    """

    def __init__(self, stock: Training):
        self.loss, self.update = stock.first()
        drawn = [self.differences(*stock.first(_rounded(stock.carried[0], seed))) for seed in range(DRAWS)]
        of_loss, of_update = (math.sqrt(statistics.fmean(d * d for d in column)) for column in zip(*drawn, strict=True))
        self.bounds = 4 * of_loss, 2 * of_update

    def differences(self, loss: float, update: list[Array]) -> tuple[float, float]:
        """Differences of the loss and of the change of the weights, as parts of stock's."""
        return abs(loss - self.loss) / abs(self.loss), float(_distance(update, self.update))

    def judge(self, loss: float, update: list[Array]) -> runner.Row:
        """A row's part; a NaN is wrong."""
        (of_loss, of_update), (bound, update_bound) = self.differences(loss, update), self.bounds
        row = {
            "loss": loss, "difference": of_loss, "bound": bound, "update_difference": of_update, "update_bound": update_bound,
        }  # fmt: skip
        if of_loss <= bound and of_update <= update_bound:
            return row
        detail = (
            f"loss {of_loss:.1e} apart, bound {bound:.1e}; weights' change {of_update:.1e}, bound {update_bound:.1e}"
        )
        return row | {"status": "wrong", "detail": detail}


@jax.jit
def _distance(found: list[Array], expected: list[Array]) -> Array:
    """The norm of the difference, as a part of the expected norm."""
    squares = lambda arrays: sum(jnp.vdot(a, a) for a in arrays)
    return jnp.sqrt(squares([a - b for a, b in zip(found, expected, strict=True)]) / squares(expected))


@jax.jit
def _rounded(weights: Any, seed: int) -> Any:
    """The weights, each moved up or down by as much as rounding to bfloat16 may move it."""
    leaves, tree = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    signs = [jax.random.rademacher(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [leaf * (1 + ROUNDING * sign) for leaf, sign in zip(leaves, signs, strict=True)])


# ---------------------------------------------------------------- measurement


class Comparison:
    """The programs of a network: a row and, while nothing is wrong with it, a training for each."""

    def __init__(self, context: runner.Context, name: str):
        network, self.context = MEASURED[name], context
        scale = DRY[name] if context.dry else network.published
        model = eqx.filter_jit(build)(network, DRY_DIVIDE if context.dry else 1)
        self.batch = jax.jit(lambda: network.batch(jax.random.key(1), *scale))()
        self.sources = steps_of(network, model)
        self.carried = self.sources["stock"].start(eqx.filter(model, eqx.is_array))
        self.rows: dict[str, runner.Row] = {impl: scale._asdict() for impl in self.sources}
        self.trainings: dict[str, Training] = {}
        self.kernels: dict[str, runner.Row] = {}

    def say(self, impl: str) -> None:
        """Announce what is about to run, should it hang."""
        self.context.alive(impl=impl, **self.kernels[impl])

    def compile(self, impl: str) -> None:
        """The program, with what is known of it before it runs."""
        self.context.alive(impl=impl)
        source = self.sources[impl]
        plans = source.plans(self.context.device, *self.batch)
        self.kernels[impl] = of_kernels(plans)
        self.rows[impl] |= {"products": len(plans), "kernels": sum(p.implementation == "mosaic" for p in plans)}
        training = self.trainings[impl] = Training(source, self.carried, self.batch)
        self.rows[impl] |= {"compile_s": training.compile_s, **memory(training.program)}

    def check(self) -> None:
        """Refer every program to stock's."""
        self.say("stock")
        reference = Reference(self.trainings["stock"])
        self.rows["stock"]["loss"] = reference.loss
        for impl in [impl for impl in self.trainings if impl != "stock"]:
            self.attempt(impl, functools.partial(self.judge, impl, reference))

    def judge(self, impl: str, reference: Reference) -> None:
        self.say(impl)
        self.rows[impl] |= reference.judge(*self.trainings[impl].first())
        if "status" in self.rows[impl]:
            del self.trainings[impl]

    def attempt(self, impl: str, work: Callable[[], None]) -> None:
        """Do some work on one program. An error goes into its row, and the other programs go on."""
        try:
            work()
        except Exception as error:
            self.trainings.pop(impl, None)
            self.rows[impl] |= log.error(error)
            if check.lost():  # nothing goes on after that
                raise

    def race(self) -> None:
        """Time all programs in turns, taking turns at going first."""
        runs = {impl: training.steps() for impl, training in self.trainings.items()}
        times: dict[str, list[float]] = {impl: [] for impl in runs}
        start, seconds = time.perf_counter(), 0.2 if self.context.dry else RACE_SECONDS
        while len(times["stock"]) < LEAST_ROUNDS or time.perf_counter() - start < seconds:
            for impl in list(runs)[:: 1 if len(times["stock"]) % 2 else -1]:
                self.say(impl)
                times[impl].append(next(runs[impl]))
        for impl, found in times.items():
            low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
            self.rows[impl] |= {"ms": middle, "low": low, "high": high, "samples": len(found)}
            if impl != "stock":
                self.rows[impl]["ratio"] = self.rows["stock"]["ms"] / middle


def measure(context: runner.Context, name: str) -> Iterator[runner.Row]:
    """A row of each program. One that fails or is wrong has no time."""
    found = Comparison(context, name)
    for impl in lost(context):
        del found.sources[impl]
        found.rows[impl]["status"] = f"{runner.SKIPPED}kernels hung or crashed before"
    found.compile("stock")
    for impl in [impl for impl in found.sources if impl != "stock"]:
        found.attempt(impl, functools.partial(found.compile, impl))
    found.check()
    found.race()
    yield from ({"impl": impl} | row for impl, row in found.rows.items())


def lost(context: runner.Context) -> set[str]:
    """Programs not to run any more, since kernels took a process with them; those that auto takes, mosaic takes, too."""
    died = [row for row in context.log.rows if row["status"] in LOSSES]
    found = {row["impl"] for row in died if row.get("impl") == "mosaic" or ("impl" in row and row.get("kernel"))}
    return found | ({"mosaic"} if found else set())


# ---------------------------------------------------------------- the script


def steps(options: argparse.Namespace) -> list[runner.Step]:
    step = lambda name: runner.Step(
        "network", name, functools.partial(measure, name=name), seconds=STEP_SECONDS, again=True
    )
    return [step(name) for name in names(options.networks)]


def names(text: str) -> list[str]:
    """Names of networks. Raises ValueError for those that are not known."""
    found = text.split(",")
    if unknown := set(found) - MEASURED.keys():
        raise ValueError(f"known are {', '.join(MEASURED)}; unknown is {', '.join(sorted(unknown))}")
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    networks, told = ",".join(MEASURED), "comma-separated, in this order (%(default)s)"
    parser.add_argument("--networks", type=runner.checked(names), default=networks, help=told)


def summary(rows: list[runner.Row]) -> str:
    """A line for each program, then what every summary ends with."""
    lines = [_line(r) for r in rows if r["kind"] == "network" and "ms" in r]
    head = f"{'network':10} {'impl':8} {'ms':>10} {'ratio':>7} {'temp MB':>9} {'kernels':>8}  loss"
    return runner.summary.fitting([head, *lines], runner.summary.ending(rows))


def _line(row: runner.Row) -> str:
    ratio = f"{row['ratio']:6.2f}x" if "ratio" in row else ""
    kernels = f"{row['kernels']}/{row['products']}"
    program = f"{row['name']:10} {row['impl']:8} {row['ms']:10.2f} {ratio:>7}"
    return f"{program} {1e-6 * row['temp_bytes']:9.0f} {kernels:>8}  {row['loss']:.6f}"


SCRIPT = runner.Script("bench.gpu_networks", __doc__, steps, summary, arguments)

if __name__ == "__main__":
    sys.exit(runner.main(SCRIPT))

"""Convolutions in loops on this CPU: stock equinox, and the same models through `pallas_conv.convert`.

    python -m bench.loops --out out/loops_cpu.json

Recurrent cells, training loops, rollouts and solvers are `lax.scan`s over convolutions. Both programs start from the same
operands and take turns; where their results disagree no time is reported.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from tqdm import tqdm

import pallas_conv as pc

from .formulations import machine
from .networks import relative_difference

LEAST_RUNS = 3
TOLERANCE = 1e-4  # of all results together, relative: steps follow one another, and rounding with them


@dataclasses.dataclass(frozen=True)
class Loop:
    """build(key) -> model; inputs(key) -> array; run(model, inputs) -> arrays, compiled as one program."""

    name: str
    build: Callable[[Array], Any]
    inputs: Callable[[Array], Array]
    run: Callable[[Any, Array], Any]


# ---------------------------------------------------------------- the models


class ConvLSTM(eqx.Module):
    """https://arxiv.org/abs/1506.04214, without peepholes."""

    gates: eqx.nn.Conv2d
    hidden: int = eqx.field(static=True)

    def __init__(self, channels: int, hidden: int, key: Array):
        self.gates = eqx.nn.Conv2d(channels + hidden, 4 * hidden, 3, padding=1, key=key)
        self.hidden = hidden

    def __call__(self, frames: Array) -> Array:
        """(T, N, C, H, W) -> (N, hidden, H, W): the last state."""

        def step(state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], None]:
            h, c = state
            i, f, o, g = jnp.split(jax.vmap(self.gates)(jnp.concatenate([x, h], 1)), 4, 1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        empty = jnp.zeros((frames.shape[1], self.hidden, *frames.shape[3:]), frames.dtype)
        (h, _), _ = lax.scan(step, (empty, empty), frames)
        return h


def sequential(*layers: Any) -> eqx.nn.Sequential:
    return eqx.nn.Sequential([part for layer in layers for part in (layer, eqx.nn.Lambda(jax.nn.relu))])


def cnn(key: Array) -> eqx.nn.Sequential:
    a, b = jax.random.split(key)
    return sequential(eqx.nn.Conv2d(3, 32, 3, padding=1, key=a), eqx.nn.Conv2d(32, 64, 3, stride=2, padding=1, key=b))


def policy(key: Array) -> eqx.nn.Sequential:
    a, b, c = jax.random.split(key, 3)
    return sequential(
        eqx.nn.Conv2d(4, 32, 3, padding=1, key=a),
        eqx.nn.Conv2d(32, 32, 3, padding=1, key=b),
        eqx.nn.Conv2d(32, 4, 3, padding=1, key=c),
    )


def down_and_up(key: Array) -> eqx.nn.Sequential:
    a, b = jax.random.split(key)
    return sequential(
        eqx.nn.Conv2d(16, 32, 4, stride=2, padding=1, key=a),
        eqx.nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, key=b),
    )


def volumes(key: Array) -> eqx.nn.Sequential:
    a, b = jax.random.split(key)
    return sequential(eqx.nn.Conv3d(16, 16, 3, padding=1, key=a), eqx.nn.Conv3d(16, 16, 3, padding=1, key=b))


# ---------------------------------------------------------------- the loops


def value_and_grad(model: Any, x: Array) -> Any:
    return eqx.filter_value_and_grad(lambda model: jnp.mean(model(x) ** 2))(model)


def train(model: Any, batches: Array) -> Any:
    """Stochastic gradient descent, one step a batch."""
    weights, rest = eqx.partition(model, eqx.is_inexact_array)

    def step(weights: Any, x: Array) -> tuple[Any, Array]:
        loss = lambda weights: jnp.mean(jax.vmap(eqx.combine(weights, rest))(x) ** 2)
        value, grads = jax.value_and_grad(loss)(weights)
        return jax.tree.map(lambda w, g: w - 0.01 * g, weights, grads), value

    return lax.scan(step, weights, batches)


def roll_out(model: Any, state: Array, steps: int) -> Array:
    """Each state is what the model makes of the one before, added to it."""
    return lax.scan(lambda s, _: (s + 0.1 * jax.vmap(model)(s), None), state, None, length=steps)[0]


def shaped(*shape: int) -> Callable[[Array], Array]:
    return lambda key: jax.random.normal(key, shape)


def laplacian(key: Array) -> eqx.nn.Conv2d:
    """The five-point stencil: one channel, for which XLA's loop is the faster program, and which stays it."""
    layer = eqx.nn.Conv2d(1, 1, 3, padding=1, use_bias=False, key=key)
    return eqx.tree_at(lambda layer: layer.weight, layer, jnp.array([[[[0, 1.0, 0], [1, -4, 1], [0, 1, 0]]]]))


LOOPS = (
    Loop("ConvLSTM, gradient, 10 steps", lambda key: ConvLSTM(8, 32, key), shaped(10, 4, 8, 32, 32), value_and_grad),
    Loop("SGD inside scan, 8 steps", cnn, shaped(8, 16, 3, 32, 32), train),
    Loop("CNN policy, 20 steps", policy, shaped(8, 4, 32, 32), lambda model, x: roll_out(model, x, 20)),
    Loop("strided and transposed, SGD, 5 steps", down_and_up, shaped(5, 4, 16, 32, 32), train),
    Loop("two Conv3d, 5 steps", volumes, shaped(2, 16, 12, 12, 12), lambda model, x: roll_out(model, x, 5)),
    Loop("heat equation, 200 steps", laplacian, shaped(1, 1, 32, 32), lambda model, x: roll_out(model, x, 200)),
)  # fmt: skip


# ---------------------------------------------------------------- measurement


def measure(loop: Loop, seconds: float) -> dict[str, Any]:
    """One row: how far results are apart, milliseconds of both, and stock's by ours, pair by pair."""
    build, draw = jax.random.split(jax.random.key(0))
    stock, x = loop.build(build), loop.inputs(draw)
    run = eqx.filter_jit(loop.run)
    ours = pc.convert(stock)
    programs = [lambda: run(stock, x), lambda: run(ours, x)]
    difference = relative_difference(*[jax.block_until_ready(program()) for program in programs])
    row = {"name": loop.name, "difference": difference}
    if not difference <= TOLERANCE:
        return row | {"status": "wrong"}
    times: list[tuple[float, ...]] = []
    start = time.perf_counter()
    while len(times) < LEAST_RUNS or time.perf_counter() - start < seconds:
        order = (0, 1) if len(times) % 2 else (1, 0)
        pair = {i: milliseconds(programs[i]) for i in order}
        times.append((pair[0], pair[1]))
    low, ratio, high = np.percentile([a / b for a, b in times], [25, 50, 75]).tolist()
    stock_ms, ours_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return row | {
        "status": "ok", "runs": len(times), "stock_ms": stock_ms, "ours_ms": ours_ms, "ratio": ratio, "low": low, "high": high,
    }  # fmt: skip


def milliseconds(program: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program())
    return 1e3 * (time.perf_counter() - start)


def summary(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['name']:38} WRONG: {row['difference']:.1e} apart"
    return f"{row['name']:38} {row['stock_ms']:8.1f} ms stock {row['ours_ms']:8.1f} ms ours {row['ratio']:6.1f}x"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.loops", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("out/loops_cpu.json"), help="the JSON document"
    )
    parser.add_argument("--seconds", type=float, default=15, help="of timed runs, a loop (default: %(default)s)")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"machine": machine(), "loops": []}
    for loop in tqdm(LOOPS, unit="loop"):
        document["loops"].append(measure(loop, args.seconds))
        tqdm.write(summary(document["loops"][-1]))
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row["status"] != "ok" for row in document["loops"]))


if __name__ == "__main__":
    sys.exit(main())

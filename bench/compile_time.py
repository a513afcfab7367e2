"""Measures how long programs take to compile on this CPU: stock equinox's, and the same through `pallas_conv.convert`.

    python -m bench.compile_time --out out/compile_cpu.json

A training step of each layer of the suite, of random layers, of dilated depthwise ones, and of networks, traced, lowered and
compiled anew each time, in turns; the least of a few times counts. Nothing is run.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from tqdm import tqdm

import pallas_conv as pc
from workloads.cases import OPERANDS, Case, suite
from workloads.layers import random_layers
from workloads.models import DIVIDE, IMAGES, NETWORKS

from .formulations import machine

SEED, COUNT = 31, 100  # of the random layers; no rule was fitted to them
NETWORK_FACTOR = 1.5  # of stock's time, for a network
LAYER_FACTOR, LAYER_SECONDS = 2.0, 0.2  # for a layer: of stock's time, and so many seconds more

type Step = tuple[Callable[..., Any], tuple[Any, ...]]  # a function and the shapes of its arguments


@dataclasses.dataclass(frozen=True)
class Program:
    """step(convert) -> the training step of the converted model, and what it takes."""

    name: str
    kind: str
    step: Callable[[Callable[[Any], Any]], Step]

    def limit(self, stock_s: float) -> float:
        """Seconds that ours may take."""
        return NETWORK_FACTOR * stock_s if self.kind == "network" else LAYER_FACTOR * stock_s + LAYER_SECONDS


# ---------------------------------------------------------------- layers


def layers() -> Iterator[Case]:
    for case in suite():
        if small := case.on_cpu():
            yield dataclasses.replace(small, dtype="float32")
    yield from random_layers(COUNT, SEED)
    yield from dilated_depthwise()


def dilated_depthwise() -> Iterator[Case]:
    """Causal ones in 1-D, as of sequence models; centred ones in two and three dimensions."""
    for ndim, channels, extent, kernel, dilation in (
        (1, 64, 4096, 8, 128), (1, 64, 4096, 5, 256), (1, 64, 4096, 4, 16),
        (2, 32, 64, 3, 16), (2, 32, 64, 5, 8), (3, 8, 24, 3, 4),
    ):  # fmt: skip
        room = dilation * (kernel - 1)
        padding = (room, 0) if ndim == 1 else (room // 2, room // 2)
        yield Case(
            name=f"depthwise_{ndim}d_k{kernel}_d{dilation}", op="conv", batch=2, in_channels=channels, out_channels=channels,
            spatial=(extent,) * ndim, kernel_size=(kernel,) * ndim, stride=(1,) * ndim, padding=(padding,) * ndim,
            dilation=(dilation,) * ndim, groups=channels, dtype="float32",
        )  # fmt: skip


def of_layer(case: Case) -> Program:
    direction = "w" if case.per_example else "fb"
    shapes = [jax.ShapeDtypeStruct(case.shapes()[name], case.dtype) for name in OPERANDS[direction]]
    return Program(case.name, "layer", lambda convert: (case.stock(direction, convert), tuple(shapes)))


# ---------------------------------------------------------------- networks


class HiFiGAN(eqx.Module):
    """The generator of https://arxiv.org/abs/2010.05646, V1, with a quarter of its channels: mel spectrogram -> wave."""

    first: eqx.nn.Conv1d
    ups: list[eqx.nn.ConvTranspose1d]
    residuals: list[list[list[eqx.nn.Conv1d]]]
    last: eqx.nn.Conv1d

    def __init__(self, key: Array, channels: int = 128):
        keys = iter(jax.random.split(key, 200))
        same = lambda c, k, d=1: eqx.nn.Conv1d(c, c, k, padding=d * (k - 1) // 2, dilation=d, key=next(keys))
        self.first = eqx.nn.Conv1d(80, channels, 7, padding=3, key=next(keys))
        self.ups, self.residuals = [], []
        for rate, kernel in ((8, 16), (8, 16), (2, 4), (2, 4)):
            pad = (kernel - rate) // 2
            self.ups.append(
                eqx.nn.ConvTranspose1d(channels, channels // 2, kernel, stride=rate, padding=pad, key=next(keys))
            )
            channels //= 2
            self.residuals.append(
                [[same(channels, k, d) for dilation in (1, 3, 5) for d in (dilation, 1)] for k in (3, 7, 11)]
            )
        self.last = eqx.nn.Conv1d(channels, 1, 7, padding=3, key=next(keys))

    def __call__(self, x: Array) -> Array:
        x = self.first(x)
        for up, blocks in zip(self.ups, self.residuals, strict=True):
            x = up(jax.nn.leaky_relu(x))
            x = sum(self.block(x, block) for block in blocks) / len(blocks)
        return jnp.tanh(self.last(jax.nn.leaky_relu(x)))

    @staticmethod
    def block(x: Array, convs: list[eqx.nn.Conv1d]) -> Array:
        for dilated, plain in zip(convs[::2], convs[1::2], strict=True):
            x = x + plain(jax.nn.leaky_relu(dilated(jax.nn.leaky_relu(x))))
        return x


class MBConvs(eqx.Module):
    """Eight inverted bottlenecks (https://arxiv.org/abs/1801.04381) with 7x7 depthwise convolutions."""

    blocks: list[list[eqx.nn.Conv2d]]

    def __init__(self, key: Array, channels: int = 32, count: int = 8, wider: int = 4):
        def block(key: Array) -> list[eqx.nn.Conv2d]:
            a, b, c = jax.random.split(key, 3)
            hidden = wider * channels
            return [
                eqx.nn.Conv2d(channels, hidden, 1, key=a),
                eqx.nn.Conv2d(hidden, hidden, 7, padding=3, groups=hidden, key=b),
                eqx.nn.Conv2d(hidden, channels, 1, key=c),
            ]

        self.blocks = [block(k) for k in jax.random.split(key, count)]

    def __call__(self, x: Array) -> Array:
        for expand, depthwise, project in self.blocks:
            x = x + project(jax.nn.relu6(depthwise(jax.nn.relu6(expand(x)))))
        return x


def gradient_step(name: str, build: Callable[[Array], Any], shape: tuple[int, ...]) -> Program:
    """The loss and gradients of a model over a batch."""

    def step(convert: Callable[[Any], Any]) -> Step:
        arrays, static = eqx.partition(convert(build(jax.random.key(0))), eqx.is_array)
        loss = lambda arrays, x: jnp.mean(jax.vmap(eqx.combine(arrays, static))(x) ** 2)
        return jax.value_and_grad(loss), (arrays, jax.ShapeDtypeStruct(shape, "float32"))

    return Program(name, "network", step)


def training_step(name: str) -> Program:
    """The training step of a network in `bench.networks`, as a program."""
    network = NETWORKS[name]

    def step(convert: Callable[[Any], Any]) -> Step:
        model = convert(network.build(jax.random.key(0), DIVIDE))
        arrays, static = eqx.partition(model, eqx.is_array)
        run = lambda arrays, *args: network.step(eqx.combine(arrays, static), *args)
        arrays_of = lambda arrays, *args: eqx.filter(run(arrays, *args), eqx.is_array)
        return arrays_of, (arrays, network.start(model), *network.batch(jax.random.key(1), IMAGES))

    return Program(name, "network", step)


def programs() -> list[Program]:
    return [
        *map(of_layer, layers()),
        gradient_step("HiFi-GAN generator", HiFiGAN, (2, 80, 32)),
        gradient_step("eight MBConv 7x7", MBConvs, (4, 32, 28, 28)),
        *map(training_step, NETWORKS),
    ]


# ---------------------------------------------------------------- measurement


def seconds(step: Step) -> float:
    """Seconds to trace, lower and compile the step, with nothing cached."""
    f, args = step
    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(lambda *args: f(*args)).lower(*args).compile()
    return time.perf_counter() - start


def measure(program: Program, times: int) -> dict[str, Any]:
    stock, ours = program.step(lambda model: model), program.step(pc.convert)
    pairs = [(seconds(stock), seconds(ours)) for _ in range(times)]
    stock_s, ours_s = map(min, zip(*pairs, strict=True))
    return {
        "name": program.name, "kind": program.kind, "stock_s": round(stock_s, 3), "ours_s": round(ours_s, 3),
        "within": ours_s <= program.limit(stock_s),
    }  # fmt: skip


def summary(row: dict[str, Any]) -> str:
    note = "" if row["within"] else "  OVER"
    return f"{row['name']:24} {row['stock_s']:7.2f} s stock {row['ours_s']:7.2f} s ours{note}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.compile_time", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("out/compile_cpu.json"), help="the JSON document"
    )
    parser.add_argument("--times", type=int, default=3, help="that each is compiled (default: %(default)s)")
    parser.add_argument("--only", default="", help="programs whose name contains this")
    args = parser.parse_args(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    chosen = [program for program in programs() if args.only in program.name]
    seconds(chosen[0].step(pc.convert))  # not counted: the first one imports modules
    document: dict[str, Any] = {"machine": machine(), "programs": []}
    for program in tqdm(chosen, unit="program"):
        document["programs"].append(measure(program, args.times))
        if not document["programs"][-1]["within"] or program.kind == "network":
            tqdm.write(summary(document["programs"][-1]))
        args.out.write_text(json.dumps(document, indent=1) + "\n")
    return int(not all(row["within"] for row in document["programs"]))


if __name__ == "__main__":
    sys.exit(main())

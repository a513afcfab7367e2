"""Several models trained in lockstep on the same batches, every step of each one timed."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jax import Array
from tqdm import tqdm

from .data import Pair
from .model import UNet, loss

WARM_UP = 10  # steps left out of the timings: compilation, and caches filling


@dataclass
class Run:
    """One model being trained, with what was seen on the way."""

    name: str
    model: UNet
    state: Any = None
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def denoise(self, noisy: np.ndarray) -> np.ndarray:
        return np.asarray(eqx.filter_jit(eqx.filter_vmap(self.model))(noisy))


def train(models: dict[str, UNet], batches: Callable[[int], Pair], steps: int) -> list[Run]:
    """Train every model on the same batches. They take turns at each step, and take turns at going first."""
    optimizer = optax.adam(optax.cosine_onecycle_schedule(steps, peak_value=4e-3, pct_start=0.1))

    def update(batch: Pair, model: UNet, state: Any) -> tuple[UNet, Any, Array]:
        value, gradients = eqx.filter_value_and_grad(loss)(model, *batch)
        updates, state = optimizer.update(gradients, state)
        return eqx.apply_updates(model, updates), state, value

    step = eqx.filter_jit(update)
    runs = [Run(name, model, optimizer.init(eqx.filter(model, eqx.is_array))) for name, model in models.items()]
    seldom = 0.2 if sys.stderr.isatty() else 15.0  # seconds between updates: a log file is not a terminal
    progress = tqdm(range(steps), desc="training both", unit="step", dynamic_ncols=True, mininterval=seldom)
    for index in progress:
        batch = Pair(*jax.device_put(tuple(batches(index))))
        for run in runs if index % 2 == 0 else reversed(runs):
            start = time.perf_counter()
            run.model, run.state, value = jax.block_until_ready(step(batch, run.model, run.state))
            run.seconds.append(time.perf_counter() - start)
            run.losses.append(float(value))
        progress.set_postfix_str(", ".join(f"{run.name} {run.losses[-1]:.4f}" for run in runs), refresh=False)
    return runs


@dataclass(frozen=True)
class SpeedUp:
    """The speed of the second run as a multiple of the first's, from pairs of steps taken next to each other."""

    baseline_ms: float
    ms: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, baseline: Run, run: Run) -> "SpeedUp":
        first, second = (np.array(r.seconds[WARM_UP:]) for r in (baseline, run))
        low, ratio, high = np.percentile(first / second, [25, 50, 75])
        return cls(1e3 * float(np.median(first)), 1e3 * float(np.median(second)), ratio, low, high)


def largest_relative_difference(first: list[float], second: list[float]) -> float:
    a, b = np.array(first), np.array(second)
    return float(np.max(np.abs(a - b) / np.abs(a)))

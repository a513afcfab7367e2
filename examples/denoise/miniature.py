"""One training step of a miniature U-Net through the kernels themselves, in bfloat16, checked against float32."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pallas_conv as pc

from .data import Pair, Patches
from .model import UNet, loss

WIDTHS = (8, 16)
Preference = tuple[str, ...]


def training_step(model: UNet) -> tuple[Callable[..., Any], Any]:
    """(parameters, noisy, clean) -> gradients, and the parameters."""
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    return jax.grad(lambda p, noisy, clean: loss(eqx.combine(p, static), noisy, clean)), parameters


@dataclass(frozen=True)
class Result:
    """Errors are against stock equinox in float32, relative to its largest gradient."""

    plans: list[Any]
    kernel_error: float  # bfloat16 through the kernels
    xla_error: float  # bfloat16 through the program that stock equinox would run

    @property
    def bound(self) -> float:
        return 2 * self.xla_error

    @property
    def launched(self) -> list[Any]:
        return [plan for plan in self.plans if plan.implementation != "xla"]

    @property
    def passed(self) -> bool:
        both_directions = {plan.product.role for plan in self.launched} >= {"fprop", "dgrad"}
        return both_directions and self.kernel_error <= self.bound


def step_through_kernels(seed: int, kernels: str) -> Result:
    """`kernels` is "mosaic" on a GPU that runs them, "interpret" anywhere else."""
    batch = Patches(seed, batch=2, size=8)(0)
    key = jax.random.key(seed)
    reference = _gradients(UNet(WIDTHS, key=key), batch)
    model = UNet(WIDTHS, layers=pc, compute_dtype=jnp.bfloat16, key=key)
    with pc.implementation("xla"):
        xla = _gradients(model, batch)
    with pc.implementation((kernels, "xla")):
        ours = _gradients(model, batch)
        step, parameters = training_step(model)
        plans = list(pc.explain(step, parameters, *batch))
    return Result(plans, _largest_difference(ours, reference), _largest_difference(xla, reference))


def _gradients(model: UNet, batch: Pair) -> Any:
    step, parameters = training_step(model)
    return jax.tree.map(np.asarray, jax.jit(step)(parameters, *batch))


def _largest_difference(tree: Any, reference: Any) -> float:
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True))
    return float(max(np.max(np.abs(a - b)) for a, b in pairs) / max(np.max(np.abs(b)) for _, b in pairs))

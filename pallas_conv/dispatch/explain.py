"""Explains what serves each product of a function, and why, without running it."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
from jax.extend import core as jex_core

from .. import compat
from ..equation import Equation
from ..errors import UnsupportedError
from ..padding import BORDERS
from ..primitives import NAME_OF
from ..target import Target, resolve
from .plan import Plan, plans


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The plans of a function's products, in the order of its program; iterable and printable.

    borders: a line for each copy that REFLECT, REPLICATE or CIRCULAR padding makes.
    unconverted: the number of convolutions in it that are lax's own, hence none of this package's products.
    """

    target: Target
    plans: tuple[Plan, ...]
    borders: tuple[str, ...] = ()
    unconverted: int = 0

    def __iter__(self) -> Iterator[Plan]:
        return iter(self.plans)

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> Plan:
        return self.plans[index]

    def __str__(self) -> str:
        count = f"{len(self.plans)} product{'s' * (len(self.plans) != 1)}"
        lines = [f"{count} of convolutions on {self.target}", *map(describe, self.plans), *self.borders]
        if self.unconverted:
            lines.append(
                f"{self.unconverted} of jax.lax's own convolutions besides, which this package does not serve: see "
                f"pallas_conv.convert and pallas_conv.lax"
            )
        return "\n".join(lines)


def describe(plan: Plan) -> str:
    """A few lines of text about one plan."""
    product, spec = plan.product, plan.product.spec
    sizes = lambda sizes: "x".join(map(str, sizes))
    n = f"{product.models} models x {product.batch}" if product.models else str(product.batch)
    x, y = f"{product.in_channels}x{sizes(spec.in_spatial)}", f"{product.out_channels}x{sizes(spec.out_spatial)}"
    details = [f"batch {n}", f"kernel {sizes(spec.kernel_spatial)}"]
    details += [f"stride {sizes(spec.strides)}"] * (set(spec.strides) != {1})
    details += [f"input dilation {sizes(spec.input_dilation)}"] * (set(spec.input_dilation) != {1})
    details += [f"dilation {sizes(spec.kernel_dilation)}"] * (set(spec.kernel_dilation) != {1})
    details += [f"groups {spec.groups}"] * (spec.groups > 1)
    details += [product.compute_dtype] + [f"to {product.out_dtype}"] * (product.out_dtype != product.compute_dtype)
    details += [product.epilogue.replace("_", "+")] * (product.epilogue != "linear")
    lines = [
        f"{product.role} {x} -> {y}, {', '.join(details)}",
        f"  selected: {plan.implementation} ({plan.scope}): {plan.source}",
    ]
    if plan.kernel:
        state = "kernel" if plan.implementation != "xla" else "kernel that would serve it"
        lines.append(f"  {state}: {plan.kernel.name}, tile {plan.kernel.config}")
    lines += [f"  against a kernel: {reason}" for reason in plan.reasons]
    lines += [f"  note: {note}" for note in plan.notes]
    return "\n".join(lines)


def explain(f: Callable[..., Any], *args: Any, device: Any = None, **kwargs: Any) -> Explanation:
    """The plan of every product that `f(*args, **kwargs)` needs on a device, decided as its compilation would.

    **Arguments:**

    - `f`: a layer, a model, or a function, jitted or not; for the backward pass, one that calls `jax.grad` or the like.
    - `args`, `kwargs`: arrays, `jax.ShapeDtypeStruct`s, or pytrees of them and of anything static, as in `equinox.filter_jit`.
    - `device`: a `jax.Device`, or a name: "cpu", "tpu", "cuda", "rocm", "h100", "h200", "a100", "b200", or a GPU's own, such as
        "NVIDIA H100 PCIe", which need not be here. None: the default device.

    **Returns:** an `Explanation`: iterable over `Plan`s, printable. It describes one device: under sharding, its block.

    **Raises:** `ValueError` for an unknown device, `UnsupportedError` where a strict implementation does not serve a product.
    """
    target = resolve(device)
    arrays, static = eqx.partition(
        (f, args, kwargs), lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)
    )

    def run(arrays: Any) -> Any:
        g, operands, named = eqx.combine(arrays, static)
        return eqx.filter(g(*operands, **named), eqx.is_array)

    found: list[Plan] = []
    errors: list[UnsupportedError] = []
    borders: list[str] = []
    unconverted = 0
    for eqn in _equations(jax.make_jaxpr(run)(arrays).jaxpr):
        if str(eqn.params.get("name", "")).startswith(BORDERS):
            before, after = (v.aval.str_short() for v in (eqn.invars[0], eqn.outvars[0]))
            borders.append(
                f"{eqn.params['name'].removeprefix(BORDERS)} borders: a copy of {before} as {after}, as in stock"
            )
        unconverted += eqn.primitive is jax.lax.conv_general_dilated_p
        if eqn.primitive not in NAME_OF:
            continue
        params = {name: eqn.params[name] for name in ("op", "names", "outs")}
        try:
            found += plans(Equation(NAME_OF[eqn.primitive], **params), target, [v.aval for v in eqn.invars])
        except UnsupportedError as error:
            errors.append(error)
    if errors:
        raise UnsupportedError.together(errors)
    return Explanation(target, tuple(found), tuple(borders), unconverted)


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The equations that somebody needs, in order, each before those inside it."""
    for eqn in compat.dead_code_eliminated(jaxpr).eqns:
        yield eqn
        for inner in _inner_jaxprs(eqn.params):
            yield from _equations(inner)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for leaf in jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, jex_core.Jaxpr | jex_core.ClosedJaxpr)):
        if isinstance(leaf, jex_core.ClosedJaxpr):
            yield leaf.jaxpr
        elif isinstance(leaf, jex_core.Jaxpr):
            yield leaf

"""An equation on one device: plan its products, run each as a kernel, an interpreted kernel or a lax program."""

import dataclasses
import functools
import logging
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from .. import env, formulations
from ..dispatch.plan import Plan, plans, rounds_once
from ..equation import BILINEAR, Equation, Op, collapse_axes
from ..target import Target

_log = logging.getLogger("pallas_conv")
_INTERPRETED_SMS = 4  # thread blocks are interpreted one by one


def execute(equation: Equation, target: Target, *args: Array) -> list[Array]:
    """The outputs of the equation; called while lowering, on the shapes of one device.

    Plans of whole arrays were made before, to place kernels on a mesh. The plans made here are of this device's block.
    """
    chosen, v = plans(equation, target, args), dict(zip(equation.names, args, strict=True))
    at_once = len(chosen) == 1 and chosen[0].product in equation.wholes(args)
    everything = at_once and set(chosen[0].product.outputs) == set(dict(equation.outs))
    if (everything or equation.primitive in ("affine", *BILINEAR)) and chosen[0].implementation != "xla":
        return _run_kernel(equation, chosen[0], *args)
    computed: dict[str, Array] = {}
    names = list(dict(equation.outs))
    if several := next((p for p in chosen if p.implementation != "xla" and len(p.product.outputs) > 1), None):
        computed = _run_at_once(equation, several, v)
        equation = equation.without(computed)
    contract = functools.partial(_run_product, equation, {plan.product.role: plan for plan in chosen})
    computed |= zip(dict(equation.outs), equation.formula(v, contract), strict=True)
    return [computed[name] for name in names]


def _run_at_once(equation: Equation, chosen: Plan, v: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs, by name, of a kernel that computes several of them, see `Equation.wholes` and `in_passing`."""
    outs = tuple(out for out in equation.outs if out[0] in chosen.product.outputs)
    part = dataclasses.replace(equation, names=chosen.product.operands, outs=outs)
    return dict(zip(dict(outs), _run_kernel(part, chosen, *(v[name] for name in part.names)), strict=True))


def _run_product(
    equation: Equation, chosen: Mapping[str, Plan], role: str, a: Array, b: Array, op: Op, dtype: Any
) -> Array:
    """The result of one bare product of the equation, by the implementation of its plan."""
    plan = chosen[role]
    if plan.implementation == "xla":
        return _run_lax(equation, plan, a, b, op, dtype)
    return _run_kernel(equation.contraction(role, op, dtype), plan, a, b)[0]


def _run_lax(equation: Equation, chosen: Plan, a: Array, b: Array, op: Op, dtype: Any) -> Array:
    with jax.named_scope(chosen.scope):
        wide_sums = not rounds_once(chosen.product, chosen.target)
        cache = None if equation.divided else formulations.cache(chosen.target)
        return formulations.run_formulation(
            str(chosen.formulation), chosen.product, a, b, op, dtype, wide_sums=wide_sums, cache=cache,
            on_cpu=chosen.target.platform == "cpu", narrow_matmuls=chosen.target.amx,
        )  # fmt: skip


def _run_kernel(equation: Equation, chosen: Plan, *args: Array) -> list[Array]:
    """The outputs of a kernel. Kernels see no axis E and exactly one axis N, so leading axes are collapsed."""
    outs, shapes = equation.outs, equation.out_shapes([t.shape for t in args])
    operands = [collapse_axes(equation.op, name, t) for name, t in zip(equation.names, args, strict=True)]
    run = _launch if chosen.implementation == "mosaic" else _interpret
    by_name = dict(zip(chosen.product.outputs, run(chosen, *operands), strict=True))
    return [by_name[name].reshape(shape).astype(dtype) for (name, dtype), shape in zip(outs, shapes, strict=True)]


def _launch(chosen: Plan, *operands: Array) -> list[Array]:
    return chosen.to_run.run(*operands)


# ---------------------------------------------------------------- the interpreter

_one_at_a_time = threading.RLock()  # the interpreter's shared memory is one global


def _interpret(chosen: Plan, *operands: Array) -> list[Array]:
    """The outputs of an interpreted kernel, by a callback: the interpreter has effects that a lowering rule cannot emit."""
    kernel, product = chosen.to_run, chosen.product
    results = [jax.ShapeDtypeStruct(*it) for it in zip(product.result_shapes, product.result_dtypes, strict=True)]

    def on_host(*operands: Any) -> list[np.ndarray]:
        from ..kernels import mosaic  # imports Pallas

        _log.debug("interpreting %s", kernel.name)
        detect_races = env.read("PALLAS_CONV_DETECT_RACES")
        with _one_at_a_time, jax.default_device(jax.local_devices(backend="cpu")[0]):
            run = _interpreted(chosen, detect_races)
            return [np.asarray(r) for r in mosaic.run_interpreted(run, *operands, detect_races=detect_races)]

    return jax.pure_callback(on_host, results, *operands)


@functools.lru_cache(maxsize=256)
def _interpreted(chosen: Plan, detect_races: bool) -> Any:
    """A compiled interpreted kernel, one a plan. The race flag is part of the key, since the trace depends on it."""
    few = dataclasses.replace(chosen.to_run.gpu, num_sms=_INTERPRETED_SMS)
    kernel = dataclasses.replace(chosen.to_run, gpu=few, given=chosen.to_run.config)
    return jax.jit(functools.partial(kernel.run, interpret=True))

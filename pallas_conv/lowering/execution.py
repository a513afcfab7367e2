"""An equation on one device: plan its products, run each as a kernel, an interpreted kernel or a lax program."""

import dataclasses
import functools
import logging
import threading
from typing import Any

import jax
import numpy as np
from jax import Array

from .. import env, formulations
from ..dispatch.plan import Plan, plans, rounds_once
from ..equation import Equation, Op, fold_axes
from ..target import Target

_log = logging.getLogger("pallas_conv")
_INTERPRETED_SMS = 4  # thread blocks are interpreted one by one


def execute(equation: Equation, target: Target, *args: Array) -> list[Array]:
    """The outputs of the equation; called while lowering, on the shapes of one device."""
    v = dict(zip(equation.names, args, strict=True))
    contract = functools.partial(_run_product, equation, target)
    if equation.primitive == "affine":
        (chosen,) = plans(equation, target, [t.shape for t in args])
        if chosen.implementation != "xla":
            return _run_kernel(equation, chosen, *args)
        contract = functools.partial(_run_lax, equation, chosen)  # one choice for the product and what is fused onto it
    return equation.formula(v, contract)


def _run_product(equation: Equation, target: Target, role: str, a: Array, b: Array, op: Op, dtype: Any) -> Array:
    """A bare product, planned by itself."""
    part = equation.contraction(role, op, dtype)
    (chosen,) = plans(part, target, [a.shape, b.shape])
    if chosen.implementation == "xla":
        return _run_lax(equation, chosen, role, a, b, op, dtype)
    return _run_kernel(part, chosen, a, b)[0]


def _run_lax(equation: Equation, chosen: Plan, role: str, a: Array, b: Array, op: Op, dtype: Any) -> Array:
    with jax.named_scope(chosen.scope):
        wide_sums = not rounds_once(chosen.product, chosen.target)
        cache = None if equation.divided else formulations.cache(chosen.target)
        return formulations.contract(
            str(chosen.formulation), role, a, b, op, dtype, wide_sums=wide_sums, cache=cache,
            on_cpu=chosen.target.platform == "cpu", narrow_matmuls=chosen.target.amx,
        )  # fmt: skip


def _run_kernel(equation: Equation, chosen: Plan, *args: Array) -> list[Array]:
    """Kernels see no axis E and exactly one axis N."""
    outs, shapes = equation.outs, equation.out_shapes([t.shape for t in args])
    operands = [fold_axes(equation.op, name, t) for name, t in zip(equation.names, args, strict=True)]
    run = _launch if chosen.implementation == "mosaic" else _interpret
    by_name = dict(
        zip(
            chosen.product.outputs if equation.primitive == "affine" else [outs[0][0]],
            run(chosen, *operands),
            strict=True,
        )
    )
    return [by_name[name].reshape(shape) for (name, _), shape in zip(outs, shapes, strict=True)]


def _launch(chosen: Plan, *operands: Array) -> list[Array]:
    return chosen.to_run.run(*operands)


# ---------------------------------------------------------------- the interpreter

_one_at_a_time = threading.RLock()  # the interpreter's shared memory is one global


def _interpret(chosen: Plan, *operands: Array) -> list[Array]:
    """Through a callback: Mosaic's interpreter has effects that a lowering rule cannot emit."""
    product = chosen.product
    spatial, channels = {
        "fprop": (product.spec.out_spatial, product.out_channels),
        "dgrad": (product.spec.in_spatial, product.in_channels),
    }[product.role]
    result = jax.ShapeDtypeStruct((product.batch, channels, *spatial), product.out_dtype)

    def on_host(*operands: Any) -> list[np.ndarray]:
        from ..kernels import mosaic  # imports Pallas

        _log.debug("interpreting %s", chosen.to_run.name)
        detect_races = env.read("PALLAS_CONV_DETECT_RACES")
        with _one_at_a_time, jax.default_device(jax.local_devices(backend="cpu")[0]):
            run = _interpreted(chosen, detect_races)
            return [np.asarray(r) for r in mosaic.run_interpreted(run, *operands, detect_races=detect_races)]

    return jax.pure_callback(on_host, [result] * len(product.outputs), *operands)


@functools.lru_cache(maxsize=256)
def _interpreted(chosen: Plan, detect_races: bool) -> Any:
    """Compiled once a plan; the key says how, since it is traced inside the interpreter's context."""
    few = dataclasses.replace(chosen.to_run.gpu, num_sms=_INTERPRETED_SMS)
    kernel = dataclasses.replace(chosen.to_run, gpu=few, given=chosen.to_run.config)
    return jax.jit(functools.partial(kernel.run, interpret=True))

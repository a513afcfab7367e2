"""The lowering rules: platform, GPU generation and mesh decide how an equation becomes a program."""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
from jax import Array
from jax.interpreters import mlir

from .. import compat
from ..dispatch.plan import Plan, plans
from ..equation import Equation
from ..primitives import PRIMITIVES
from ..target import Target, from_device, from_device_kind, this_cpu
from . import partitioning
from .execution import execute


def lower(primitive: str, platform: str | None, ctx: Any, *args: Any, **params: Any) -> Any:
    """The lowering rule of a primitive. platform None: any but CPU and CUDA, or an export for several at once."""
    if platform == "cuda":  # Mosaic refuses modules of several platforms; this rule runs only inside the CUDA branch
        ctx = ctx.replace(module_context=ctx.module_context.replace(platforms=("cuda",)))
        target = _gpu(ctx)
    else:
        several = ctx.platforms or ctx.module_context.platforms  # an export may be for more than one
        target = this_cpu() if platform == "cpu" else Target(platform or "+".join(several))
    program = distribute(Equation(primitive, **params), target, ctx)
    return mlir.lower_fun(program, multiple_results=True)(ctx, *args)


def distribute(equation: Equation, target: Target, ctx: Any) -> Any:
    """The program of an equation on the devices of this lowering."""
    chosen = plans(equation, target, ctx.avals_in)
    context, mesh = ctx.module_context.axis_context, ctx.avals_in[0].sharding.mesh
    local = _local(target)
    if not mesh.empty and mesh.explicit_axes:
        return partitioning.on_explicit_mesh(equation, local, ctx.avals_in)
    kernels, several = any(p.implementation == "mosaic" for p in chosen), _several_devices(context)
    if _cannot_partition(ctx, context):
        if kernels:
            reason = (
                "a partially manual shard_map, export for several devices, or JAX without Shardy cannot carry a kernel"
            )
            equation = dataclasses.replace(equation, no_kernels=reason)
    elif kernels or (several and _gathers(chosen)):
        return partitioning.on_automatic_mesh(equation, local)
    # XLA partitions all other lax programs, and calls of the interpreter.
    return functools.partial(local, dataclasses.replace(equation, divided=several))


def _gathers(chosen: list[Plan]) -> bool:
    """Whether XLA would gather images. The interpreter's calls are left to it all the same."""
    return any(p.gathers for p in chosen) and not any(p.implementation == "interpret" for p in chosen)


@functools.cache
def _local(target: Target) -> partitioning.Local:
    """The function that runs an equation on a target. There is one a target, so that custom_partitioning's caches find it."""

    def local(equation: Equation, *args: Array) -> list[Array]:
        return execute(equation, target, *args)

    return local


def _cannot_partition(ctx: Any, context: Any) -> bool:
    """Whether custom_partitioning is out of reach: partially manual shard_map, export for several devices, no Shardy."""
    if isinstance(context, mlir.SPMDAxisContext) and set(context.manual_axes) != set(context.mesh.axis_names):
        return True
    return _several_devices(context) and (
        not compat.can_partition_while_lowering() or ctx.module_context.lowering_parameters.for_export
    )


def _several_devices(context: Any) -> bool:
    return (getattr(context, "num_devices", 1) or 1) > 1


def _gpu(ctx: Any) -> Target:
    """The GPU that the module is lowered for: of the backend (a compile-only one too), else of the abstract mesh."""
    with contextlib.suppress(Exception):  # an export for a platform that is not here has no backend
        found = {from_device(d) for d in ctx.module_context.backend.devices()}
        if len(found) == 1 and (target := found.pop()).is_gpu:
            return target
    for mesh in (jax.sharding.get_abstract_mesh(), ctx.avals_in[0].sharding.mesh):
        if (device := getattr(mesh, "abstract_device", None)) is not None:
            return from_device_kind(device.device_kind)
    return Target("cuda")


def register() -> None:
    for name, primitive in PRIMITIVES.items():
        compat.allow_partitioning(primitive)
        mlir.register_lowering(primitive, functools.partial(lower, name, None))
        for platform in ("cpu", "cuda"):
            mlir.register_lowering(primitive, functools.partial(lower, name, platform), platform=platform)

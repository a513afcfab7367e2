"""An equation on many devices: its block on each, then the sums that its outputs need.

Every logical axis (a factor, see equation.py) is sharded over some mesh axes or whole; outputs are summed over the mesh axes
of the factors they are contracted from. This is for kernels, for explicit meshes, and for lax programs that XLA would gather
images for (formulations/division.py); it partitions all others.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from ..equation import SOURCES, Equation, Op, factors, kind, wider
from ..primitives import must_replicate, partitions

type MeshAxes = dict[str, tuple[str, ...]]  # of each sharded factor
type Local = Callable[..., list[Array]]  # (equation, *blocks) -> blocks


def mesh_axes(equation: Equation, tensors: Sequence[Any]) -> tuple[MeshAxes, list[PartitionSpec], list[PartitionSpec]]:
    """The mesh axes of each factor, first come first served, and the specs of operands and outputs that follow.

    A factor that its mesh axes do not divide is whole. XLA would fill the last blocks up with anything, and the sums would add
    that.
    """
    operand_factors, result_factors = equation.factors([t.shape for t in tensors[: len(equation.names)]])
    axes: MeshAxes = {}
    taken: set[str] = set()
    for t, fs in zip(tensors, operand_factors + result_factors, strict=False):
        for f, size, names in zip(fs, t.shape, partitions(t), strict=True):
            names = () if names is None else names if isinstance(names, tuple) else (names,)
            fits = size % math.prod(t.sharding.mesh.shape[name] for name in names) == 0
            if names and fits and f not in axes and not must_replicate(equation.op, f) and not taken & set(names):
                axes[f] = names
                taken |= set(names)

    def specs(tensors_factors: list[list[str]]) -> list[PartitionSpec]:
        return [PartitionSpec(*[axes.get(f) for f in fs]) for fs in tensors_factors]

    return axes, specs(operand_factors), specs(result_factors)


def one_device(equation: Equation, local: Local, axes: MeshAxes, batch_axes: int) -> Callable[..., list[Array]]:
    """The program of one device, for its blocks."""

    def of(name: str) -> list[str]:
        return factors(equation.op, kind(name), batch_axes)

    def summed_over(name: str) -> tuple[str, ...]:
        sources = dict.fromkeys(f for source in SOURCES[name] for f in of(source))
        return tuple(axis for f in sources if f not in of(name) for axis in axes.get(f, ()))

    sums = {name: summed_over(name) for name, _ in equation.outs}

    def add_up(t: Array, name: str) -> Array:
        return jax.lax.psum(t, sums[name]) if sums[name] else t

    def run(*blocks: Array) -> list[Array]:
        if equation.primitive in ("affine", "tangent") and any(sums.values()):
            # Input channels are sharded: the sum comes before bias and activation.
            def contract(role: str, a: Array, b: Array, op: Op, dtype: Any) -> Array:
                return add_up(local(equation.contraction(role, op, dtype), a, b)[0], equation.outs[0][0])

            v = dict(zip(equation.names, blocks, strict=True))
            return equation.formula(v, contract)
        wide = tuple((n, wider(dtype, jnp.float32) if sums[n] else dtype) for n, dtype in equation.outs)
        results = local(dataclasses.replace(equation, outs=wide), *blocks)
        return [add_up(r, n).astype(dtype) for r, (n, dtype) in zip(results, equation.outs, strict=True)]

    return run


def on_explicit_mesh(equation: Equation, local: Local, avals: Sequence[Any]) -> Callable[..., list[Array]]:
    """The program on a mesh whose axes are in the types, by shard_map."""
    mesh = avals[0].sharding.mesh
    axes, operand_specs, result_specs = mesh_axes(equation, avals)
    block = jax.shard_map(
        one_device(equation, local, axes, _batch_axes(equation, avals)),
        mesh=mesh,
        in_specs=tuple(operand_specs),
        out_specs=result_specs,
        axis_names=set(mesh.explicit_axes),
        check_vma=False,
    )

    def run(*args: Array) -> list[Array]:
        placed = [
            t if jax.typeof(t).sharding.spec == spec else jax.reshard(t, spec)
            for t, spec in zip(args, operand_specs, strict=True)
        ]
        return block(*placed)

    return run


def on_automatic_mesh(equation: Equation, local: Local) -> Callable[..., list[Array]]:
    """The program on a mesh that the compiler partitions, by custom_partitioning. On one device it is `local` itself."""
    return functools.partial(_partitioned, equation, local)


@functools.partial(custom_partitioning, static_argnums=(0, 1))
def _partitioned(equation: Equation, local: Local, *args: Array) -> list[Array]:
    return local(equation, *args)


def _partition(equation: Equation, local: Local, mesh: Any, arg_shapes: Any, result_shapes: Any) -> tuple:
    axes, operand_specs, result_specs = mesh_axes(equation, [*arg_shapes, *result_shapes])
    return (
        mesh,
        one_device(equation, local, axes, _batch_axes(equation, arg_shapes)),
        [NamedSharding(mesh, spec) for spec in result_specs],
        tuple(NamedSharding(mesh, spec) for spec in operand_specs),
    )


def _sharding_rule(
    equation: Equation, local: Local, mesh: Any, value_types: Any, result_types: Any
) -> tuple[str, dict]:
    operand_factors, result_factors = equation.factors([tuple(v.shape) for v in value_types])
    produced = {f for fs in result_factors for f in fs}
    order = list(dict.fromkeys(f for fs in operand_factors + result_factors for f in fs))
    replicated = tuple(f for f in order if must_replicate(equation.op, f))  # Shardy wants them in order of appearance
    summed = tuple(f for f in order if f not in produced and f not in replicated)

    def text(tensors_factors: list[list[str]]) -> str:
        return ", ".join(" ".join(fs) for fs in tensors_factors)

    rule = f"{text(operand_factors)} -> {text(result_factors)}"
    return rule, {"reduction_factors": summed, "need_replication_factors": replicated}


_partitioned.def_partition(_partition, sharding_rule=_sharding_rule)


def _batch_axes(equation: Equation, tensors: Sequence[Any]) -> int:
    return equation.batch_axes([t.shape for t in tensors[: len(equation.names)]])

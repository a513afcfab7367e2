"""The one seam to what JAX keeps private or changes between versions (the kernels have theirs: kernels/mosaic.py)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.interpreters import partial_eval as pe

# It lets a lowering rule use custom_partitioning, see can_partition_while_lowering.
_needs_devices: Any
try:
    from jax._src.dispatch import prim_requires_devices_during_lowering as _needs_devices
except ImportError:
    _needs_devices = None

_jet: Any
try:
    from jax.experimental import jet as _jet
except ImportError:
    _jet = None

_checkify: Any
try:
    from jax._src import checkify as _checkify
except ImportError:
    _checkify = None


def can_partition_while_lowering() -> bool:
    """Whether a lowering rule may use custom_partitioning: with Shardy only, JAX's default partitioner. Without: kernels on one
    device, in shard_map, and on explicit meshes.
    """
    return _needs_devices is not None and bool(getattr(jax.config, "jax_use_shardy_partitioner", True))


def allow_partitioning(primitive: Any) -> None:
    if _needs_devices is not None:
        _needs_devices.add(primitive)


def varying_axes(t: Array) -> frozenset[str]:
    """The mesh axes over which `t` differs, inside shard_map with check_vma."""
    aval = jax.typeof(t)
    return aval.vma if hasattr(aval, "vma") else aval.mat.varying  # JAX 0.11; JAX 0.12


def match_varying_axes(ts: Sequence[Array]) -> list[Array]:
    """The arrays, all varying over the same mesh axes. The transpose of that is the sum of dw over devices."""
    every = frozenset().union(*map(varying_axes, ts))
    return [lax.pcast(t, tuple(every - varying_axes(t)), to="varying") if every - varying_axes(t) else t for t in ts]


def register_dce(primitive: Any, rule: Callable[[list[bool], Any], tuple[list[bool], Any]]) -> None:
    """rule(used outputs, equation) -> (used operands, new equation or None); JAX 0.12 passes the live operands in between."""
    pe.dce_rules[primitive] = lambda used, *rest: rule(used, rest[-1])


def register_taylor(primitive: Any, rule: Callable[..., tuple[list[Array], list[list[Array]]]]) -> None:
    """rule(operands, their Taylor coefficients, **params) -> (outputs, theirs), for jax.experimental.jet while JAX has it."""
    if _jet is not None:
        _jet.jet_rules[primitive] = rule


def taylor(f: Callable[..., Any], primals: Sequence[Array], coefficients: Sequence[list[Array]]) -> tuple[Any, Any]:
    return _jet.jet(f, primals, coefficients, factorial_scaled=False)


def check_for_nan(primitive: Any) -> None:
    """Let jax.experimental.checkify's float_checks look at a primitive's results as they do at those of lax's convolution."""
    rules, rule = getattr(_checkify, "error_checks", None), getattr(_checkify, "nan_error_check", None)
    if rules is not None and rule is not None:
        rules[primitive] = functools.partial(rule, primitive)


def dead_code_eliminated(jaxpr: Any) -> Any:
    """The jaxpr without what none of its outputs needs, as jit lowers it."""
    return pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]

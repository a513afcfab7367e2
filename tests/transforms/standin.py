"""A stand-in for kernels, existing or not: every equation, whatever it is, becomes one Mosaic launch with its name.

It writes one element: right operands, results and launches, no content. For programs that are compiled and read, never run.
"""

from typing import Any

import jax
import pytest
from jax import Array
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_conv.equation import Equation
from pallas_conv.lowering import execution, lower
from pallas_conv.primitives import PRIMITIVES
from pallas_conv.target import Target
from tests.transforms import programs

PREFIX = "standin_"


class _Served:
    implementation = "mosaic"


def serve_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve, on a GPU, every equation that multiplies; a reduction alone is no kernel."""
    assert set(PRIMITIVES) == {"fprop", "dgrad", "wgrad", "affine", "tangent", "bwd"}
    monkeypatch.setattr(lower, "plans", lambda equation, target, shapes: [_Served()] * _is_product(equation))
    monkeypatch.setattr(lower, "_local", lambda target: _launch_or_xla)


def _is_product(equation: Equation) -> bool:
    return tuple(n for n, _ in equation.outs) != ("db",)


def _launch_or_xla(equation: Equation, *args: Array) -> list[Array]:
    served = _is_product(equation) and not equation.no_kernels
    return _launch(equation, *args) if served else execution.execute(equation, Target("cuda"), *args)


def _launch(equation: Equation, *args: Array) -> list[Array]:
    shapes = equation.out_shapes([a.shape for a in args])
    outs = [jax.ShapeDtypeStruct(shape, dtype) for shape, (_, dtype) in zip(shapes, equation.outs, strict=True)]

    def body(*refs: Any) -> None:
        source = refs[0][(0,) * args[0].ndim]
        for ref in refs[len(args) :]:
            ref[(0,) * len(ref.shape)] = source.astype(ref.dtype)

    name = PREFIX + programs.equation_name(equation.primitive, equation.outs).replace(" ", "_")
    return list(plgpu.kernel(body, out_type=outs, grid=(1,), grid_names=("i",), kernel_name=name)(*args))


def partition_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat lax programs as kernels, on any platform: split them over devices by the rules of this package, not XLA's."""
    monkeypatch.setattr(lower, "plans", lambda equation, target, shapes: [_Served()])
    monkeypatch.setattr(lower, "_local", lambda target: _lax)


def _lax(equation: Equation, *args: Array) -> list[Array]:
    return execution.execute(equation, Target("cpu"), *args)

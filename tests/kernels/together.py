"""Families that compute weight gradients, and whole backward passes at once, in plain JAX: what they are offered."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.activations import ACTIVATIONS
from pallas_conv.kernels.family import Size
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.spec import OUTPUTS, Product
from tests.kernels import toy


class Together:
    """Every backward pass of two gradients or more, and weight gradients with that of a bias."""

    name = "together"
    roles = frozenset({"bwd", "wgrad"})
    bodies = {(9, 0): __name__}  # noqa: RUF012
    config: type[Any] = toy.Config
    samples = ()

    def is_for(self, product: Product, /) -> bool:
        return True

    def reasons(self, product: Product, /) -> list[str]:
        return [] if len(product.outputs) > 1 else ["one gradient by itself is not served"]

    def problem(self, product: Product, /) -> Product:
        return product

    def illegal(self, problem: Product, config: toy.Config, gpu: Gpu, /) -> None:
        return None

    def candidates(self, problem: Product, gpu: Gpu, /) -> Iterator[toy.Config]:
        yield toy.Config()

    def work(self, problem: Product, config: toy.Config, gpu: Gpu, /) -> Any:
        return toy.TOY.work(toy.Problem(64, 64), config, gpu)

    def size(self, product: Product, /) -> Size:
        spec, pixels = product.spec, product.batch * math.prod(product.spec.out_spatial)
        weights = product.out_channels * product.in_channels // spec.groups * math.prod(spec.kernel_spatial)
        taps = math.prod(spec.kernel_spatial) / math.prod(spec.strides)
        nbytes = 2 * sum(map(math.prod, (*product.operand_shapes, *product.result_shapes)))
        return Size(
            pixels * weights, nbytes, product.out_channels // spec.groups, product.in_channels // spec.groups, taps
        )

    def series(self, product: Product, /) -> str:
        return f"{product.role}_{''.join(product.outputs)}"

    def code_path(self, product: Product, config: toy.Config, /) -> str:
        return "together"

    def epilogue(self, product: Product, config: toy.Config, /) -> str:
        return str(product.activation)

    def notes(self, product: Product, config: toy.Config, /) -> list[str]:
        return []

    def __reduce__(self) -> str:
        return "TOGETHER"


class Weights(Together):
    """Every weight gradient, by itself or with that of the bias."""

    name = "weights"
    roles = frozenset({"wgrad"})

    def reasons(self, product: Product, /) -> list[str]:
        return []


TOGETHER, WEIGHTS = Together(), Weights()
launched: list[Product] = []


def run(
    product: Product, config: toy.Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False
) -> list[Array]:
    """x, ct, w and what the activation saved (see `Product.operand_shapes`) -> the gradients that are asked for."""
    launched.append(product)
    spec = product.spec
    x, ct, *others = operands
    if product.models is not None:
        one = dataclasses.replace(product, models=None)
        return jax.vmap(lambda *of_model: run(one, config, gpu, *of_model, name=name, interpret=interpret))(*operands)
    g = ct.astype(jnp.float32)
    if product.activation:
        g = g * ACTIVATIONS[product.activation].derivative(others.pop().astype(jnp.float32))
    forward = dataclasses.replace(product, role="fprop", activation=None, outputs=OUTPUTS["fprop"][:1])
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in forward.operand_shapes]

    def conv(x: Array, w: Array) -> Array:
        return lax.conv_general_dilated(
            x, w, spec.strides, spec.padding, spec.input_dilation, spec.kernel_dilation,
            feature_group_count=spec.groups,
        )  # fmt: skip

    w = others[0].astype(jnp.float32) if others else jnp.zeros(shapes[1].shape)
    dx, dw = jax.vjp(conv, x.astype(jnp.float32), w)[1](g)
    found = {"dx": dx, "dw": dw, "db": g.sum((0, *range(2, g.ndim)))}
    return [found[name].astype(dtype) for name, dtype in zip(product.outputs, product.result_dtypes, strict=True)]

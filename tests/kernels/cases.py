"""Reference results of the products that kernels are tested with, by definition and by XLA."""

import dataclasses
import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from pallas_conv.activations import ACTIVATIONS, applied
from pallas_conv.formulations.programs.library import misread_on_cpu
from pallas_conv.spec import Product
from pallas_conv.verify.verdict import judge
from workloads.configured import Case as Case
from workloads.configured import product as product


def useful(product: Product) -> int:
    """Multiply-adds that read the input, straight from the definition: of every dimension, every output and tap."""
    spec, total = product.spec, product.batch * (product.models or 1)
    for size, out, kernel, stride, up, dilation, (low, _) in zip(
        spec.in_spatial, spec.out_spatial, spec.kernel_spatial, spec.strides, spec.input_dilation, spec.kernel_dilation,
        spec.padding, strict=True,
    ):  # fmt: skip
        reads = [divmod(o * stride + t * dilation - low, up) for o, t in itertools.product(range(out), range(kernel))]
        total *= sum(rest == 0 and 0 <= j < size for j, rest in reads)
    return total * product.in_channels * product.out_channels // spec.groups


def executed(case: Case) -> int:
    """Multiply-adds that the kernel of a case issues: the measure of its size."""
    family = case.kernel.family
    work = importlib.import_module(f"pallas_conv.kernels.{family.name}.work")
    count: int = work.executed_macs(family.problem(case.product), case.config)
    return count


@jax.jit(static_argnums=0)
def baseline(p: Product, *operands: jax.Array) -> list[jax.Array]:
    """The outputs of a program without kernels: XLA's convolution in the same dtype, epilogue or gradients in out_dtype."""
    if p.models is not None:
        one_model = functools.partial(baseline, dataclasses.replace(p, models=None))
        return jax.vmap(one_model)(*operands)
    s, v = p.spec, dict(zip(p.operands, operands, strict=True))
    misread = any(misread_on_cpu(role, s) for role in ("fprop", "dgrad", "wgrad"))  # of memory that may hold anything

    def conv(x: jax.Array, w: jax.Array) -> jax.Array:
        padding, up = s.padding, s.input_dilation
        if misread:
            x = lax.pad(
                x,
                jnp.zeros((), x.dtype),
                [(0, 0, 0)] * 2 + [(*sides, n - 1) for sides, n in zip(padding, up, strict=True)],
            )
            padding, up = ((0, 0),) * s.ndim, (1,) * s.ndim
        return lax.conv_general_dilated(
            x, w.astype(x.dtype), s.strides, padding, up, s.kernel_dilation, feature_group_count=s.groups
        )

    if p.role == "fprop":
        z = conv(v["x"].astype(p.out_dtype), v["w"])
        if p.bias:
            z = z + v["b"].astype(z.dtype).reshape(1, -1, *(1,) * s.ndim)
        if p.residual:
            z = z + v["r"]
        return [applied(p.activation, z) if name == "y" else z for name in p.outputs]
    g = v["ct"].astype("float32")
    if p.activation:
        g = g * ACTIVATIONS[p.activation].derivative(v["a"].astype("float32"))
    ct = g.astype(p.compute_dtype).astype(p.out_dtype)  # as a lax program multiplies it, too
    forward = dataclasses.replace(p, role="fprop", activation=None, outputs=())
    x, w = (
        v.get(name, jnp.zeros(shape)).astype(ct.dtype) for name, shape in zip("xw", forward.operand_shapes, strict=True)
    )
    gradients = dict(zip(("dx", "dw"), jax.vjp(conv, x, w)[1](ct), strict=True)) | {"db": g.sum((0, *range(2, g.ndim)))}
    return [gradients[name].astype(dtype) for name, dtype in zip(p.outputs, p.result_dtypes, strict=True)]


def check(p: Product, outs: list[jax.Array], operands: list[jax.Array]) -> None:
    """Each output within the bound of `judge`, with `baseline` as XLA's own result."""
    usual = baseline(p, *operands)
    assert len(outs) == len(usual)
    for name, dtype, got, base in zip(p.outputs, p.result_dtypes, outs, usual, strict=True):
        assert got.dtype == dtype, (name, got.dtype)
        verdict = judge(dataclasses.replace(p, outputs=(name,)), tuple(operands), got, base)
        assert verdict.right, f"output {name}: {verdict}"

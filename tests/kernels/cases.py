"""Small products with the configurations they are tested under, and what XLA makes of them."""

import dataclasses
import functools
import itertools
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pallas_conv.kernels.config import Config
from pallas_conv.spec import ConvSpec, Product
from pallas_conv.verify.verdict import judge
from tests.activations import ACTIVATIONS

Pair = int | tuple[int, ...]


def product(
    role: str,
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, ...],
    kernel: Pair,
    stride: Pair = 1,
    padding: Any = 0,
    dilation: Pair = 1,
    *,
    input_dilation: Pair = 1,
    groups: int = 1,
    dtype: str = "bfloat16",
    out_dtype: str | None = None,
    **epilogue: Any,
) -> Product:
    """A product of a convolution with (in, out) channels; a number stands for every dimension, as a padding for both sides."""
    each = lambda v: v if isinstance(v, tuple) else (v,) * len(size)
    sides = tuple(p if isinstance(p, tuple) else (p, p) for p in each(padding))
    spec = ConvSpec(each(stride), sides, each(input_dilation), each(dilation), groups, size, each(kernel))
    return Product(role, spec, batch, *channels, dtype, out_dtype or dtype, **epilogue)


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    product: Product
    config: Config
    num_sms: int = 4
    extended: bool = False  # interpreted in the long matrix only: its features have other cases, too

    def __str__(self) -> str:
        return self.name.replace(" ", "_")

    def operands(self) -> list[jax.Array]:
        """Random operands of this name's own; the weights scaled so that the sums are about 1."""
        p, rng = self.product, np.random.default_rng(zlib.crc32(self.name.encode()))
        shapes = p.operand_shapes
        scales = [1.0, 1 / math.sqrt(p.in_channels // p.spec.groups * math.prod(p.spec.kernel_spatial)), 1.0, 1.0]
        dtypes = [p.compute_dtype, p.compute_dtype, *["float32"] * p.bias, p.out_dtype]
        return [
            jnp.asarray(rng.standard_normal(shape) * scale, dtype)
            for shape, scale, dtype in zip(shapes, scales, dtypes, strict=False)
        ]


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


@jax.jit(static_argnums=0)
def baseline(p: Product, source: jax.Array, w: jax.Array, *added: jax.Array) -> list[jax.Array]:
    """What a program without kernels makes of it: XLA's convolution in the same dtype, then the epilogue in out_dtype."""
    if p.models is not None:
        one_model = functools.partial(baseline, dataclasses.replace(p, models=None))
        return jax.vmap(one_model)(source, w, *added)
    s = p.spec

    def conv(x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            w.astype(x.dtype),
            s.strides,
            s.padding,
            s.input_dilation,
            s.kernel_dilation,
            feature_group_count=s.groups,
        )

    source = source.astype(p.out_dtype)
    if p.role == "dgrad":
        x = jax.ShapeDtypeStruct((p.batch, p.in_channels, *s.in_spatial), source.dtype)
        return list(jax.linear_transpose(conv, x)(source))
    z = conv(source)
    if p.bias:
        z = z + added[0].astype(z.dtype).reshape(1, -1, *(1,) * s.ndim)
    if p.residual:
        z = z + added[-1]
    return [ACTIVATIONS[p.activation](z) if name == "y" and p.activation else z for name in p.outputs]


def check(p: Product, outs: list[jax.Array], operands: list[jax.Array]) -> None:
    """Each output within the bound of `judge`, with `baseline` as XLA's own result."""
    usual = baseline(p, *operands)
    assert len(outs) == len(usual)
    for name, got, base in zip(p.outputs, outs, usual, strict=True):
        assert got.dtype == p.out_dtype, (name, got.dtype)
        verdict = judge(dataclasses.replace(p, outputs=(name,)), tuple(operands), got, base)
        assert verdict.right, f"output {name}: {verdict}"


c = Config


def small() -> list[Case]:
    """Every feature that is served, at sizes that the interpreter takes seconds for."""
    p = product
    return [
        Case(
            "3x3 ragged edges, more steps than twice the stages",
            p("fprop", 2, (64, 64), (9, 14), 3, 1, 1, bias=True, activation="relu"),
            c((1, 8, 8), 64, stages=3),
        ),
        Case(
            "3x3 s2, asymmetric padding, odd sizes",
            p("fprop", 2, (64, 128), (11, 13), 3, 2, ((0, 1), (1, 2)), bias=True, activation="silu"),
            c((1, 4, 16), 64, stages=2),
        ),
        Case(
            "mixed strides",
            p("fprop", 1, (64, 64), (9, 12), (3, 2), (1, 2), (1, 0), bias=True),
            c((1, 8, 8), 64, stages=2),
            extended=True,
        ),
        Case(
            "mixed strides the other way, both outputs",
            p("fprop", 1, (32, 64), (12, 9), (1, 5), (2, 1), (0, 2), bias=True, activation="tanh", outputs=("y", "z")),
            c((1, 8, 8), 64, bk=32, stages=2),
        ),
        Case(
            "5x3 dilated 2 and 3",
            p("fprop", 1, (64, 64), (17, 19), (5, 3), 1, (4, 3), (2, 3)),
            c((1, 8, 8), 64, stages=3),
            extended=True,
        ),
        Case(
            "padding and dilation 12, taps skipped",
            p("fprop", 1, (64, 64), (17, 17), 3, 1, 12, 12),
            c((1, 8, 8), 64, stages=3),
        ),
        Case(
            "dilation 12, taps not skipped",
            p("fprop", 1, (16, 16), (13, 13), 3, 1, 12, 12),
            c((1, 8, 8), 16, bk=16, stages=3, skip=False),
            extended=True,
        ),
        Case(
            "negative padding",
            p("fprop", 1, (64, 64), (13, 14), 3, 1, ((-2, 1), (1, -3)), bias=True),
            c((1, 8, 8), 64, stages=2),
            extended=True,
        ),
        Case(
            "negative padding, s2",
            p("fprop", 2, (16, 16), (13, 14), 3, 2, ((-1, 2), (3, -2)), bias=True),
            c((1, 8, 8), 16, bk=16, stages=2),
        ),
        Case(
            "kernel larger than the input",
            p("fprop", 2, (32, 32), (2, 9), (5, 3), 1, (2, 1), bias=True),
            c((1, 4, 16), 32, bk=32, stages=2),
        ),
        Case(
            "padding only: most windows miss the input",
            p("fprop", 1, (16, 16), (3, 3), 3, 1, 5, bias=True, activation="sigmoid"),
            c((1, 8, 8), 16, bk=16, stages=2),
        ),
        Case("1x1 s2 projection, no epilogue", p("fprop", 2, (128, 64), (8, 10), 1, 2), c((1, 8, 8), 64, stages=2)),
        Case(
            "C=3 K=40 7x7 s2, odd width",
            p("fprop", 2, (3, 40), (12, 13), 7, 2, 3, bias=True, activation="relu"),
            c((1, 8, 8), 48, bk=16, stages=2),
            extended=True,
        ),
        Case(
            "C=48 K=80, three taps a step",
            p("fprop", 2, (48, 80), (7, 9), 3, 1, 1, bias=True, activation="relu"),
            c((1, 8, 8), 80, bk=16, taps=3, stages=2),
        ),
        Case(
            "four taps a step of a 7 wide kernel",
            p("fprop", 1, (3, 32), (8, 12), (3, 7), 1, (1, 3), bias=True),
            c((1, 8, 8), 32, bk=16, taps=4, stages=2),
            extended=True,
        ),
        Case(
            "C=1 K=1",
            p("fprop", 1, (1, 1), (9, 9), 3, 1, 1, bias=True, activation="leaky_relu"),
            c((1, 8, 8), 16, bk=16, stages=2),
        ),
        Case(
            "C=21 K=37, both outputs",
            p("fprop", 1, (21, 37), (9, 8), 3, 1, 1, bias=True, activation="gelu", outputs=("y", "z")),
            c((1, 8, 8), 48, bk=32, stages=2),
            extended=True,
        ),
        Case(
            "z alone",
            p("fprop", 1, (32, 32), (8, 8), 3, 1, 1, bias=True, activation="gelu", outputs=("z",)),
            c((1, 8, 8), 32, bk=32, stages=2),
            extended=True,
        ),
        Case(
            "both outputs through one buffer",
            p("fprop", 2, (32, 96), (8, 9), 3, 1, 1, bias=True, activation="gelu_tanh", outputs=("y", "z")),
            c((1, 8, 8), 96, bk=32, stages=2, out_bufs=1),
            extended=True,
        ),
        Case(
            "both outputs through two buffers",
            p("fprop", 2, (32, 96), (8, 9), 3, 1, 1, bias=True, activation="silu", outputs=("y", "z")),
            c((1, 8, 8), 96, bk=32, stages=2, out_bufs=2),
            num_sms=2,
            extended=True,
        ),
        Case(
            "three buffers, which tiles start in turn",
            p("fprop", 2, (16, 64), (9, 15), 1, bias=True, outputs=("y", "z")),
            c((1, 8, 8), 64, bk=16, stages=2, out_bufs=3),
            num_sms=2,
        ),
        Case(
            "f16, both outputs",
            p("fprop", 2, (64, 64), (7, 9), 3, 1, 1, dtype="float16", bias=True, activation="gelu", outputs=("y", "z")),
            c((1, 8, 8), 64, stages=2),
            extended=True,
        ),
        Case(
            "float32 result",
            p("fprop", 1, (64, 48), (7, 9), 3, 1, 1, out_dtype="float32", bias=True, activation="gelu"),
            c((1, 8, 8), 48, stages=2),
            extended=True,
        ),
        Case(
            "float32 results of f16",
            p(
                "fprop",
                1,
                (16, 20),
                (7, 9),
                3,
                2,
                1,
                dtype="float16",
                out_dtype="float32",
                bias=True,
                outputs=("y", "z"),
            ),
            c((1, 8, 8), 32, bk=16, stages=2, out_bufs=2),
        ),
        Case(
            "float32 as TF32, 3x3 s2, both outputs",
            p(
                "fprop",
                2,
                (48, 40),
                (9, 11),
                3,
                2,
                1,
                dtype="float32",
                bias=True,
                activation="gelu",
                outputs=("y", "z"),
            ),
            c((1, 8, 8), 48, bk=32, stages=2),
        ),
        Case(
            "float32 as TF32, halo, two taps a step",
            p("fprop", 1, (8, 32), (9, 10), (3, 2), 1, 1, dtype="float32", bias=True),
            c((1, 8, 8), 32, bk=8, taps=2, halo=True, stages=2),
            extended=True,
        ),
        Case(
            "float32 as TF32, input gradient of stride 2",
            p("dgrad", 1, (20, 24), (9, 10), 3, 2, 1, dtype="float32"),
            c((1, 8, 8), 32, bk=16, stages=2),
            extended=True,
        ),
        Case(
            "float32 as TF32, C=3, taps as channels",
            p("fprop", 1, (3, 32), (9, 10), 5, 1, 2, dtype="float32", bias=True),
            c((1, 8, 8), 32, bk=16, unfold=True, stages=2),
            extended=True,
        ),
        Case(
            "1-D, a kernel of 41",
            p("fprop", 1, (16, 16), (90,), 41, 2, 20, bias=True),
            c((1, 64), 16, bk=16, stages=2),
        ),
        Case(
            "images as rows, 3x3",
            p("fprop", 70, (32, 64), (2, 2), 3, 1, 1, bias=True, activation="relu"),
            c((64, 1, 1), 64, bk=32, stages=3, consumers=1),
        ),
        Case(
            "images as rows, 4x4 s2",
            p("fprop", 33, (32, 64), (4, 4), 3, 2, 1, bias=True),
            c((32, 1, 2), 64, bk=32, stages=3, consumers=1),
            extended=True,
        ),
        Case(
            "one consumer",
            p("fprop", 1, (64, 64), (7, 9), 3, 1, 1),
            c((1, 8, 8), 64, stages=2, consumers=1),
            extended=True,
        ),
        Case(
            "two blocks on an SM, two buffers",
            p("fprop", 2, (64, 64), (9, 9), 3, 1, 1, bias=True),
            c((1, 8, 8), 64, stages=2, consumers=1, blocks=2, out_bufs=2),
        ),
        Case(
            "more tiles than blocks",
            p("fprop", 2, (32, 80), (9, 17), (3, 1), 1, (1, 0), bias=True, activation="relu"),
            c((1, 8, 8), 48, bk=32, stages=2),
            num_sms=2,
        ),
        Case(
            "cluster of two",
            p("fprop", 1, (64, 80), (9, 21), (1, 3), 1, (0, 1), bias=True),
            c((1, 8, 8), 48, bk=32, stages=2, cluster=2),
        ),
        Case(
            "halo",
            p("fprop", 1, (128, 64), (11, 14), 3, 1, 1, bias=True, activation="relu"),
            c((1, 8, 8), 64, halo=True, stages=2),
            extended=True,
        ),
        Case(
            "halo, 5x3 dilated, asymmetric, both outputs",
            p("fprop", 1, (64, 48), (17, 19), (5, 3), 1, ((4, 2), 3), (2, 3), bias=True, outputs=("y", "z")),
            c((1, 4, 16), 48, halo=True, stages=2),
        ),
        Case(
            "halo, four taps a step, cluster of two",
            p("fprop", 2, (16, 64), (11, 14), 4, 1, ((1, 2), (1, 2)), bias=True),
            c((1, 8, 8), 64, bk=16, taps=4, halo=True, stages=2, cluster=2),
        ),
        Case(
            "strided halo, three taps of two remainders, more tiles than blocks, cluster of two",
            p("fprop", 2, (64, 64), (19, 33), 3, 2, 1, bias=True, activation="relu"),
            c((1, 8, 8), 64, halo=True, stages=2, cluster=2),
            num_sms=2,
        ),
        Case(
            "strided halo, s2 7x7, taps of the other dimension as channels, odd sizes",
            p("fprop", 1, (3, 32), (23, 19), 7, 2, (3, (2, 4)), bias=True),
            c((1, 4, 16), 32, bk=32, halo=True, unfold=True, stages=2),
        ),
        Case(
            "strided halo, s3 dilated by 2, four taps of three remainders, f16, both outputs",
            p("fprop", 1, (24, 48), (29, 18), (4, 3), (3, 1), ((4, 1), 1), (2, 1), dtype="float16", outputs=("y", "z")),
            c((1, 8, 8), 48, bk=32, halo=True, stages=2),
            extended=True,
        ),
        Case(
            "strided halo, dilated by the stride: one remainder",
            p("fprop", 1, (16, 32), (21, 9), 3, (2, 1), ((1, -1), 1), (2, 1), bias=True),
            c((1, 8, 8), 32, bk=16, taps=3, halo=True, stages=2),
            extended=True,
        ),
        Case(
            "strided halo of a volume's second dimension, input gradient of a transposed convolution",
            p("dgrad", 1, (16, 32), (3, 5, 8), (2, 4, 3), 1, (0, 1, 1), input_dilation=(1, 2, 1)),
            c((1, 1, 8, 8), 16, bk=32, halo=True, stages=2),
        ),
        Case(
            "strided halo in every phase: strided and transposed at once",
            p("fprop", 1, (16, 16), (15, 9), (12, 3), (2, 1), 4, input_dilation=(3, 1), bias=True),
            c((1, 8, 8), 16, bk=16, halo=True, stages=2),
        ),
        Case(
            "resident weights, halo, two blocks on an SM, two channel steps, more tiles than blocks",
            p("fprop", 2, (48, 48), (11, 14), 3, 1, 1, bias=True, activation="relu"),
            c((1, 8, 8), 48, bk=32, halo=True, resident=True, stages=2, consumers=1, blocks=2),
            num_sms=2,
        ),
        Case(
            "resident weights of all phases, taps skipped, ragged channels, two tiles a block",
            p("fprop", 1, (20, 24), (5, 9), (4, 3), 1, 2, (1, 2), input_dilation=2, bias=True),
            c((1, 8, 8), 32, bk=16, resident=True, stages=2),
        ),
        Case(
            "resident weights of a volume, residual, input stride, taps as channels",
            p("fprop", 1, (2, 32), (5, 9, 9), 3, (1, 2, 1), 1, residual=True, outputs=("y", "z"), activation="silu"),
            c((1, 1, 8, 8), 32, bk=16, halo=True, unfold=True, resident=True, stages=2),
        ),
        Case(
            "resident weights of a folded dimension",
            p("fprop", 2, (32, 3), (9, 10), 3, 1, 1, bias=True),
            c((1, 8, 8), 16, bk=16, halo=True, fold=1, resident=True, stages=3),
            extended=True,
        ),
        Case(
            "input gradient, 3x3", p("dgrad", 2, (64, 48), (9, 10), 3, 1, 1), c((1, 8, 8), 64, stages=2), extended=True
        ),
        Case(
            "input gradient, asymmetric padding, dilated, odd channels",
            p("dgrad", 1, (21, 37), (9, 10), (2, 3), 1, ((1, 0), (0, 3)), (1, 2)),
            c((1, 8, 8), 32, bk=32, stages=2),
        ),
        Case(
            "input gradient, negative padding",
            p("dgrad", 1, (16, 16), (11, 10), 3, 1, ((-2, 0), (1, -3))),
            c((1, 8, 8), 16, bk=16),
        ),
        Case(
            "input gradient of a transposed convolution: strided",
            p("dgrad", 2, (64, 64), (5, 9), 4, 1, 2, input_dilation=2),
            c((1, 8, 8), 64, stages=2),
            extended=True,
        ),
        Case(
            "input gradient, mixed input dilation, f16, float32 result",
            p("dgrad", 1, (16, 24), (5, 9), 3, 1, 1, input_dilation=(2, 1), dtype="float16", out_dtype="float32"),
            c((1, 8, 8), 16, bk=32, stages=2),
        ),
        Case(
            "input gradient, halo",
            p("dgrad", 2, (32, 64), (9, 9), 3, 1, 1),
            c((1, 8, 8), 32, halo=True, stages=2),
            extended=True,
        ),
        Case(
            "transposed, k4 s2",
            p("fprop", 2, (32, 32), (5, 9), 4, 1, 2, input_dilation=2, bias=True),
            c((1, 8, 8), 32, bk=32, stages=2),
            extended=True,
        ),
        Case(
            "input gradient of stride 2, dilated: phases of unequal taps",
            p("dgrad", 1, (32, 32), (11, 14), 3, 2, 1, 2),
            c((1, 8, 8), 32, bk=32, stages=2),
        ),
        Case(
            "transposed, k2 s3: empty phases",
            p("fprop", 1, (32, 32), (5, 6), 2, 1, 1, input_dilation=3, bias=True),
            c((1, 8, 8), 32, bk=32, stages=2),
        ),
        Case(
            "transposed, dilated: phases with other taps, more tiles than blocks, both outputs",
            p(
                "fprop",
                2,
                (24, 40),
                (6, 7),
                (4, 3),
                1,
                ((2, 1), (1, 0)),
                (1, 2),
                input_dilation=(2, 3),
                bias=True,
                activation="silu",
                outputs=("y", "z"),
            ),
            c((1, 4, 16), 48, bk=32, stages=2),
            num_sms=2,
        ),
        Case(
            "transposed and strided at once",
            p("fprop", 1, (16, 16), (9, 8), 4, (3, 2), (2, 3), input_dilation=(2, 3), bias=True),
            c((1, 8, 8), 16, bk=16, stages=2),
        ),
        Case(
            "transposed, two images a box, cluster of two",
            p("fprop", 3, (32, 32), (4, 8), 2, 1, 1, input_dilation=2, bias=True, activation="relu"),
            c((2, 4, 8), 32, bk=32, stages=2, cluster=2),
        ),
        Case(
            "transposed, halo: two taps in every phase",
            p("fprop", 1, (64, 64), (9, 10), 4, 1, 2, input_dilation=2, bias=True),
            c((1, 8, 8), 64, halo=True, stages=2),
        ),
        Case(
            "input gradient of stride 2, 3x3",
            p("dgrad", 2, (64, 48), (10, 12), 3, 2, 1),
            c((1, 4, 16), 64, bk=32, stages=2),
        ),
        Case(
            "input gradient of stride 3, 1x1: phases without taps are zero, odd sizes",
            p("dgrad", 1, (20, 24), (11, 9), 1, 3),
            c((1, 8, 8), 32, bk=32, stages=2),
        ),
        Case(
            "patches 4x4 s4",
            p("fprop", 2, (16, 32), (12, 16), 4, 4, bias=True),
            c((1, 4, 16), 32, bk=16, stages=3),
            extended=True,
        ),
        Case(
            "input gradient of groups, negative padding",
            p("dgrad", 1, (48, 32), (9, 9), 3, 1, ((-1, 1), (1, 0)), groups=2),
            c((1, 8, 8), 32, bk=16, stages=2),
        ),
        Case(
            "three models of two groups, bias",
            p("fprop", 2, (32, 48), (7, 9), 3, 1, 1, groups=2, bias=True, activation="relu", models=3),
            c((1, 8, 8), 32, bk=16, stages=2),
            num_sms=3,
            extended=True,
        ),
        Case(
            "input gradients of two models, stride 2",
            p("dgrad", 2, (24, 16), (8, 9), 3, 2, 1, models=2),
            c((1, 8, 8), 32, bk=16, stages=2),
        ),
        Case(
            "1-D, causal, dilation 8",
            p("fprop", 2, (32, 64), (100,), 2, 1, ((8, 0),), 8, bias=True, activation="silu"),
            c((1, 64), 64, bk=32, stages=2),
        ),
        Case(
            "1-D, transposed k16 s8, more tiles than blocks",
            p("fprop", 2, (32, 16), (40,), 16, 1, 11, input_dilation=8, bias=True),
            c((1, 64), 16, bk=32, stages=2, consumers=1),
            num_sms=3,
        ),
        Case(
            "1-D, s4, halo dimension there is none, images together",
            p("fprop", 5, (16, 32), (37,), 7, 4, 3, bias=True),
            c((4, 16), 32, bk=16, stages=2),
        ),
        Case(
            "1-D, one channel, k10 s5, taps as channels",
            p("fprop", 2, (1, 32), (203,), 10, 5, ((2, 1),), bias=True, activation="gelu"),
            c((1, 64), 32, bk=16, unfold=True, stages=2),
        ),
        Case(
            "stem 7x7 s2, taps as channels, odd width",
            p("fprop", 2, (3, 40), (12, 13), 7, 2, 3, bias=True, activation="relu"),
            c((1, 8, 8), 48, bk=32, unfold=True, stages=2),
        ),
        Case(
            "three channels 3x3, dilated, negative padding, taps as channels",
            p("fprop", 1, (3, 16), (9, 11), 3, 1, ((1, 2), (-1, 3)), (1, 2), bias=True),
            c((1, 8, 8), 16, bk=16, unfold=True, stages=2),
        ),
        Case(
            "input gradient of three channels out, taps as channels",
            p("dgrad", 1, (32, 3), (9, 10), 3, 1, 1),
            c((1, 8, 8), 32, bk=16, unfold=True, stages=2),
            extended=True,
        ),
        Case(
            "three groups, s2",
            p("fprop", 2, (72, 120), (9, 11), 3, 2, 1, groups=3, bias=True),
            c((1, 8, 8), 48, bk=32, stages=2),
        ),
        Case("1-D", p("fprop", 2, (32, 32), (70,), 5, 1, 2, bias=True), c((1, 64), 32, bk=32, stages=2), extended=True),
        Case(
            "3-D, one image a box",
            p("fprop", 1, (32, 32), (3, 5, 9), (3, 1, 2), 1, (1, 0, 1), bias=True),
            c((1, 2, 4, 8), 32, bk=32, stages=2),
            extended=True,
        ),
        Case(
            "3-D, tiles past the last image, two buffers, more tiles than blocks",
            p("fprop", 3, (16, 80), (2, 3, 9), (1, 2, 1), bias=True, activation="relu"),
            c((1, 2, 4, 8), 48, bk=16, stages=2, out_bufs=2),
            num_sms=2,
        ),
        Case(
            "3-D, two images a box",
            p("fprop", 3, (16, 32), (2, 4, 8), 3, 1, 1, bias=True),
            c((2, 1, 4, 8), 32, bk=16, stages=2, consumers=1),
        ),
        Case(
            "3-D, s2, odd sizes",
            p("fprop", 1, (16, 32), (5, 4, 9), 3, 2, 1, bias=True, activation="leaky_relu"),
            c((1, 1, 8, 8), 32, bk=16, stages=2),
        ),
        Case(
            "3-D, transposed k2 s2",
            p("fprop", 2, (32, 16), (2, 3, 5), 2, 1, 1, input_dilation=2, bias=True),
            c((1, 1, 4, 16), 16, bk=32, stages=2),
        ),
        Case(
            "3-D, input gradient of mixed strides, groups",
            p("dgrad", 1, (32, 32), (3, 5, 8), (1, 3, 3), (1, 2, 2), (0, 1, 1), groups=2),
            c((1, 1, 8, 8), 16, bk=16, stages=2),
        ),
        Case(
            "3-D, several taps a step past the last image",
            p("fprop", 3, (16, 16), (1, 4, 9), (1, 1, 3), 1, (0, 0, 1), bias=True),
            c((1, 1, 4, 16), 16, bk=16, taps=2, stages=2),
        ),
        Case(
            "three parts of seven channel steps, both outputs",
            p("fprop", 1, (100, 64), (7, 9), 3, 1, 1, bias=True, activation="silu", outputs=("y", "z")),
            c((1, 8, 8), 64, bk=16, stages=2, split=3),
        ),
        Case(
            "parts, cluster of two, ragged channels, more tiles than blocks",
            p("fprop", 2, (64, 75), (9, 12), (1, 3), 1, (0, 1), bias=True, activation="relu"),
            c((1, 8, 8), 48, bk=32, stages=3, cluster=2, split=2, out_bufs=2),
            num_sms=2,
        ),
        Case(
            "parts, halo, two blocks on an SM",
            p("fprop", 1, (128, 64), (11, 14), 3, 1, 1, bias=True),
            c((1, 8, 8), 64, halo=True, stages=2, consumers=1, blocks=2, split=2),
            extended=True,
        ),
        Case(
            "parts of groups, no bias, z alone",
            p("fprop", 2, (96, 80), (9, 8), 3, 2, 1, groups=2, activation="tanh", outputs=("z",)),
            c((1, 8, 8), 48, bk=16, stages=2, split=2),
            extended=True,
        ),
        Case(
            "parts, float32 as TF32, y before z, two models",
            p("fprop", 1, (48, 40), (8, 9), 3, 1, 1, dtype="float32", bias=True, outputs=("y", "z"), models=2),
            c((1, 8, 8), 48, bk=16, stages=2, split=3),
            extended=True,
        ),
        Case(
            "parts, transposed k2 s3: empty phases, more tiles than blocks",
            p("fprop", 2, (64, 32), (5, 6), 2, 1, 1, input_dilation=3, bias=True, activation="sigmoid"),
            c((1, 8, 8), 32, bk=32, stages=2, split=2),
            num_sms=2,
        ),
        Case(
            "parts, input gradient of stride 2, float32 result, odd channels",
            p("dgrad", 1, (21, 80), (9, 10), 3, 2, 1, out_dtype="float32"),
            c((1, 8, 8), 32, bk=16, stages=2, split=5),
            extended=True,
        ),
        Case(
            "parts, 1-D, taps as channels",
            p("fprop", 2, (3, 32), (203,), 16, 8, 4, bias=True),
            c((1, 64), 32, bk=32, unfold=True, stages=2, split=2),
            extended=True,
        ),
        Case(
            "parts, 3-D, one image a box, f16",
            p("fprop", 1, (64, 32), (3, 4, 9), (2, 3, 1), 1, (1, 1, 0), dtype="float16", bias=True),
            c((1, 1, 8, 8), 32, bk=16, stages=2, split=4),
            extended=True,
        ),
        Case(
            "three output channels 5x5, taps of one dimension as output channels, both outputs",
            p("fprop", 2, (32, 3), (9, 11), 5, 1, (2, (1, 3)), bias=True, activation="silu", outputs=("y", "z")),
            c((1, 8, 8), 16, bk=32, fold=1, stages=2),
        ),
        Case(
            "3-D, transposed k3 s2 to one channel, all taps as output channels",
            p("fprop", 2, (24, 1), (2, 3, 9), 3, 1, ((1, 2),) * 3, input_dilation=2, bias=True, activation="tanh"),
            c((1, 1, 4, 16), 32, bk=32, fold=3, stages=2),
        ),
        Case(
            "input gradient of a stem 7x7 s2, taps as output channels, odd sizes, cluster of two",
            p("dgrad", 2, (3, 32), (11, 13), (3, 7), 2, (1, 3)),
            c((1, 8, 8), 64, bk=32, fold=2, stages=2, cluster=2),
        ),
        Case(
            "1-D, dilated, negative padding, taps as output channels, float32 as TF32, two models",
            p("fprop", 2, (20, 2), (70,), 5, 1, ((-3, 9),), 3, dtype="float32", bias=True, models=2),
            c((1, 64), 16, bk=16, fold=1, stages=2),
        ),
        Case(
            "transposed k2 s3 with empty phases, taps as output channels, halo of the others, float32 result",
            p("fprop", 1, (32, 3), (9, 8), (3, 2), 1, 1, input_dilation=(1, 3), out_dtype="float32", bias=True),
            c((1, 8, 8), 16, bk=32, halo=True, fold=1, stages=2),
        ),
        Case(
            "residual two chunks ahead, ragged edges, more tiles than blocks",
            p("fprop", 2, (32, 80), (9, 17), (3, 1), 1, (1, 0), bias=True, residual=True, activation="relu"),
            c((1, 8, 8), 80, bk=32, stages=2, out_bufs=3),
            num_sms=2,
        ),
        Case(
            "residual without bias, both outputs through three buffers, two blocks on an SM",
            p("fprop", 1, (32, 64), (9, 10), 3, 1, 1, residual=True, activation="gelu", outputs=("y", "z")),
            c((1, 8, 8), 64, bk=32, stages=2, consumers=1, blocks=2, out_bufs=3),
            num_sms=2,
        ),
        Case(
            "residual of a transposed convolution, odd channels and sizes, float32 result, cluster of two",
            p(
                "fprop",
                2,
                (16, 21),
                (5, 6),
                (3, 2),
                1,
                1,
                input_dilation=2,
                out_dtype="float32",
                bias=True,
                residual=True,
                activation="silu",
            ),
            c((1, 8, 8), 32, bk=16, stages=2, cluster=2),
        ),
        Case(
            "residual, 3-D, one image a box, tiles past the last image, three models",
            p("fprop", 3, (16, 16), (2, 3, 5), 3, 1, 1, residual=True, models=3),
            c((1, 1, 4, 16), 16, bk=16, stages=2),
            extended=True,
        ),
        Case(
            "residual of parts, groups",
            p("fprop", 2, (96, 80), (9, 8), 3, 2, 1, groups=2, bias=True, residual=True, activation="tanh"),
            c((1, 8, 8), 48, bk=16, stages=2, split=2),
            extended=True,
        ),
        Case(
            "residual of folded taps, f16",
            p("fprop", 2, (32, 3), (9, 11), 3, 1, 1, dtype="float16", residual=True, activation="sigmoid"),
            c((1, 8, 8), 32, bk=32, fold=2, stages=2),
        ),
        Case(
            "one image, a consumer without a tile, whose taps are not those of the first",
            p("fprop", 1, (16, 16), (9, 17), 3, 1, 1, bias=True),
            c((1, 8, 8), 16, bk=16, stages=2),
        ),
        Case(
            "volumes of depth one, a consumer without a tile",
            p("fprop", 3, (16, 16), (1, 9, 8), 3, 1, 1, bias=True),
            c((1, 1, 8, 8), 16, bk=16, stages=2),
        ),
        Case(
            "inputs of one pixel, which few of the taps meet",
            p("fprop", 3, (16, 16), (1, 1), 4, 1, 3, bias=True),
            c((4, 1, 16), 16, bk=16, stages=2),
        ),
        Case(
            "inputs of one pixel, taps beyond it not skipped",
            p("dgrad", 66, (16, 16), (2, 3), (2, 3)),
            c((64, 1, 1), 16, bk=16, stages=2, skip=False),
            extended=True,
        ),
        Case(
            "one row, several taps a step past the last of a phase",
            p("fprop", 1, (16, 16), (1, 40), (1, 5), 1, ((0, 0), (2, 2)), input_dilation=(1, 2), bias=True),
            c((1, 1, 64), 16, bk=16, taps=2, stages=2),
        ),
    ]

"""Products under explicit configurations, for the interpreter and for hardware alike: the ladder, the code paths."""

import dataclasses
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_conv import strict
from pallas_conv.kernels import families, serve
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.serve import Kernel
from pallas_conv.spec import ConvSpec, Product

type Each = int | tuple[int, ...]  # of one spatial dimension, or the same for all


@dataclasses.dataclass(frozen=True)
class Case:
    """A product, and how the kernel is to compute it.

    config    of the family that serves the product
    num_sms   streaming multiprocessors that the kernel may use: few make a worker take several tiles
    extended  the interpreter takes it in the long test matrix only: its features have other cases, too
    """

    name: str
    product: Product
    config: Any
    num_sms: int = 4
    extended: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "_")

    @property
    def kernel(self) -> Kernel:
        """The product's kernel under the configuration. Raises ValueError if no kernel serves it."""
        return serve.kernel(self.product, Gpu(self.num_sms), self.config)

    @classmethod
    def from_json(cls, data: Any, where: str = "case") -> "Case":
        """The inverse of `strict.to_json`. Raises ValueError, which names the field below `where`, for anything else."""
        case: Case = strict.parse(cls, data, where)
        if (family := families.serving(case.product)) is None:
            raise ValueError(f"no kernel serves {where}.product")
        return dataclasses.replace(case, config=family.config.from_json(case.config, f"{where}.config"))

    def operands(self) -> list[jax.Array]:
        """Random operands, the same for the same name; the second one scaled so that the sums are about 1."""
        p, rng = self.product, np.random.default_rng(zlib.crc32(self.name.encode()))
        summed = max(1, _summed(p))
        scales = {"ct" if p.role == "wgrad" else "w": 1 / math.sqrt(summed)}
        dtypes = {"b": "float32", "r": p.out_dtype}
        return [
            jnp.asarray(rng.standard_normal(shape) * scales.get(name, 1.0), dtypes.get(name, p.compute_dtype))
            for name, shape in zip(p.operands, p.operand_shapes, strict=True)
        ]


def _summed(p: Product) -> int:
    """About as many products as are added for one element of the result."""
    if p.role == "wgrad":
        return p.batch * math.prod(p.spec.out_spatial)
    return p.in_channels // p.spec.groups * math.prod(p.spec.kernel_spatial)


def product(
    role: str,
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, ...],
    kernel: Each,
    stride: Each = 1,
    padding: Any = 0,
    dilation: Each = 1,
    *,
    input_dilation: Each = 1,
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

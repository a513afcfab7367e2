"""The geometry of a convolution, and its products: pure Python, and no JAX for sizes that are numbers.

`<y, conv(x, w)>` is trilinear. Leaving out one of the three gives

    fprop(x, w) -> y        the convolution
    dgrad(y, w) -> x        its input gradient
    wgrad(x, y) -> w        its weight gradient

and what one kernel may compute of them together

    bwd(x, y, w) -> x, w    the whole backward pass

in channels-first shapes x: (N, C, *in), w: (O, C // groups, *kernel), y: (N, O, *out). The names are cuDNN's. A transposed
convolution is the same form with `input_dilation` > 1 (https://arxiv.org/abs/1603.07285), so it needs no products of its own.
"""

import dataclasses
from typing import Any

from . import strict

OUTPUTS = {  # of each role, in this order; the first one is there unless it says otherwise
    "fprop": ("y", "z"),
    "dgrad": ("dx",),
    "wgrad": ("dw", "db"),
    "bwd": ("dx", "dw", "db"),
}


def dilated(size: int, dilation: int) -> int:
    """Extent of `size` elements with `dilation - 1` holes between neighbours."""
    return (size - 1) * dilation + 1 if size else 0


def _not_negative(size: Any) -> Any:
    """max(0, size), also of a symbolic size, as in `jax.export`."""
    if isinstance(size, int):
        return max(0, size)
    from jax.core import max_dim

    return max_dim(size, 0)


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """The static part of one convolution, but for channels and batch. Every tuple has one entry a spatial dimension.

    Output element o sums over taps t: x_up[o * stride + t * kernel_dilation - low] * w[t], where x_up is x with
    input_dilation - 1 zeros between neighbours and (low, high) is the padding, which may be negative (a crop).
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int
    in_spatial: tuple[int, ...]
    kernel_spatial: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.strides)

    @property
    def out_spatial(self) -> tuple[int, ...]:
        sizes = []
        for i in range(self.ndim):
            padded = dilated(self.in_spatial[i], self.input_dilation[i]) + sum(self.padding[i])
            window = dilated(self.kernel_spatial[i], self.kernel_dilation[i])
            sizes.append(_not_negative((padded - window) // self.strides[i] + 1))
        return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class Product:
    """One product of a convolution at given sizes and dtypes, with what is fused onto its output.

    role            "fprop", "dgrad", "wgrad" or "bwd"
    batch           N
    in_channels     C, of x (all groups together)
    out_channels    O, of y
    compute_dtype   what both operands are multiplied in
    out_dtype       what the result is stored in (dx of bwd, dw of wgrad: see `result_dtypes`); sums are at least float32
    models          independent problems side by side (a leading axis on every operand), or None
    bias            fprop adds b: (O,)
    residual        fprop adds r: (N, O, *out), in out_dtype
    activation      fprop applies it to the sum, bias and residual included; bwd, and wgrad with db, multiply the cotangent by
                    its derivative, at what the activation saved
    outputs         some of OUTPUTS[role]: the activated sum "y" and the sum itself "z", the gradients "dx", "dw" and "db"
    precision       None, or the jax.lax.Precision of both operands by name: "default", "tensorfloat32", "high", "highest"
    """

    role: str
    spec: ConvSpec
    batch: int
    in_channels: int
    out_channels: int
    compute_dtype: str
    out_dtype: str
    models: int | None = None
    bias: bool = False
    residual: bool = False
    activation: str | None = None
    outputs: tuple[str, ...] = ()
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.role not in OUTPUTS:
            raise ValueError(f"{self.role=} must be one of {', '.join(OUTPUTS)}")
        possible = OUTPUTS[self.role]
        # Committed measurements from before gradients had names say "y" of every product.
        if self.outputs in ((), ("y",)):
            object.__setattr__(self, "outputs", possible[:1])
        elif not set(possible).issuperset(self.outputs):
            raise ValueError(f"{self.outputs=} of {self.role} must be some of {possible}")

    @property
    def epilogue(self) -> str:
        """A name for the operations fused onto the sum: "linear", "bias", "bias_residual_relu", "bias_silu_yz", ..."""
        parts = ["bias"] * self.bias + ["residual"] * self.residual + ([self.activation] if self.activation else [])
        if len(self.outputs) > 1:
            parts.append("".join(self.outputs))
        return "_".join(parts) or "linear"

    @property
    def may_use_tf32(self) -> bool:
        """Whether float32 operands may be multiplied with TF32's ten bits of mantissa, as JAX's default precision allows."""
        return self.compute_dtype == "float32" and self.precision in (None, "default", "tensorfloat32")

    @property
    def operands(self) -> tuple[str, ...]:
        """The names of the operands, ct being the cotangent and a what the activation saved:

        fprop x, w, b and r if there are any; dgrad ct, w; wgrad x, ct, a if its cotangent is to be multiplied; bwd x, ct, w, a.
        """
        a = ["a"] * bool(self.activation)
        return {
            "fprop": ("x", "w", *["b"] * self.bias, *["r"] * self.residual),
            "dgrad": ("ct", "w"),
            "wgrad": ("x", "ct", *a),
            "bwd": ("x", "ct", "w", *a),
        }[self.role]

    @property
    def operand_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the operands."""
        return tuple(self._shape_of(name) for name in self.operands)

    @property
    def result_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the outputs."""
        return tuple(self._shape_of(name) for name in self.outputs)

    @property
    def result_dtypes(self) -> tuple[str, ...]:
        """The dtypes of the outputs: what bwd sums beside dx, and wgrad beside dw, stays float32, and the caller rounds it."""
        wide = OUTPUTS[self.role][1:] if self.role in ("wgrad", "bwd") else ()
        return tuple("float32" if name in wide else self.out_dtype for name in self.outputs)

    def _shape_of(self, name: str) -> tuple[int, ...]:
        spec, lead = self.spec, () if self.models is None else (self.models,)
        if name in ("x", "dx"):
            return (*lead, self.batch, self.in_channels, *spec.in_spatial)
        if name in ("w", "dw"):
            return (*lead, self.out_channels, self.in_channels // spec.groups, *spec.kernel_spatial)
        if name in ("b", "db"):
            return (*lead, self.out_channels)
        return (*lead, self.batch, self.out_channels, *spec.out_spatial)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "product") -> "Product":
        """The inverse of `to_json`. Raises ValueError, which names the field below `where`, for anything else."""
        return strict.parse(cls, data, where)

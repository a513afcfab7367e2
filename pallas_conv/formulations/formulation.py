"""The form of a formulation: a lax program, the products that it serves and what it costs; and of a rule for taking one."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax import Array

from ..spec import ConvSpec
from .canonical import adjoint, adjoint_weight, upsamples
from .sizes import Sizes


@dataclasses.dataclass(frozen=True)
class How:
    """The way that a program multiplies: handed to all products in it, the same for every formulation of a product.

    precision      as in `jax.lax.conv_general_dilated`
    result_dtype   dtype of what library calls and matrix products return; None: that of their operands
    channels_last  whether the library's convolutions are written channels last, see `library.convolve`
    """

    precision: Any = None
    result_dtype: np.dtype | None = None
    channels_last: bool = False

    @property
    def of_lax(self) -> dict[str, Any]:
        """Keyword arguments of lax's products."""
        return {"precision": self.precision, "preferred_element_type": self.result_dtype}


type Program = Callable[[Array, Array, ConvSpec, How], Array]


@dataclasses.dataclass(frozen=True)
class Cost:
    """The work and memory of a program, by its own structure: a model, not a measurement.

    flops    two for every multiply-add executed, zeros included
    nbytes   read and written, if nothing stays in a cache between its steps
    taps     operations written out in the program, which is what compile time grows with
    temp     bytes of temporary memory
    """

    flops: float
    nbytes: float
    taps: int
    temp: float


@dataclasses.dataclass(frozen=True)
class Formulation:
    """One way to write a product as a lax program.

    serves   whether it computes this product, at a reasonable length of program
    cost     of a product that it serves
    fprop    (x, w, spec, how) -> y
    dgrad    (ct, w, adjoint of spec, how) -> dx, where that is not fprop with the taps of w reversed
    wgrad    (x, ct, spec, how) -> dw
    blocks   how many times the cache a block of images may fill, if it runs over a few images at a time: to keep their
             windows in the cache (1), or only to need no memory for all at once (4). None for the library's convolutions.
    library  whether it convolves with the platform's library, in the dtypes in which stock does
    loop     whether it is one loop over elements, into which XLA would move what its operands are computed by
    matmul   whether it multiplies by matrix products alone, which can read bfloat16 and sum in float32
    """

    name: str
    serves: Callable[[Sizes], bool]
    cost: Callable[[Sizes], Cost]
    fprop: Program | None = None
    dgrad: Program | None = None
    wgrad: Program | None = None
    blocks: int | None = None
    library: bool = False
    loop: bool = False
    matmul: bool = False

    def run(self, role: str, a: Array, b: Array, spec: ConvSpec, how: How) -> Array:
        """fprop(x, w) -> y, dgrad(ct, w) -> dx or wgrad(x, ct) -> dw of one model, of a product that it serves."""
        if role == "wgrad":
            assert self.wgrad is not None
            if not upsamples(spec):
                return self.wgrad(a, b, spec, how)
            return adjoint_weight(self.wgrad(b, a, adjoint(spec), how), spec.groups)
        assert self.fprop is not None
        if role == "dgrad" and self.dgrad is not None:
            return self.dgrad(a, b, adjoint(spec), how)
        if role == "dgrad":
            b, spec = adjoint_weight(b, spec.groups), adjoint(spec)
        return self.fprop(a, b, spec, how)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule: if it `applies`, the first of `formulations` that serves the product and fits into memory, because of `why`."""

    applies: Callable[[Sizes], bool]
    formulations: tuple[str, ...]
    why: str


def first(rules: Sequence[Rule], sizes: Sizes, usable: Callable[[str], bool]) -> tuple[str, str] | None:
    """The formulation that the first rule with a usable one asks for, and why."""
    for rule in rules:
        if rule.applies(sizes) and (name := next(filter(usable, rule.formulations), None)):
            return name, rule.why
    return None

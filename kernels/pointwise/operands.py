"""The pointwise kernel's operands and results: channels last, and as its TMA sees them in global memory."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from pallas_conv.spec import Product

from ..examples import examples_as_images
from ..partials import pairwise_sum
from ..views import PixelBoxes, ResultBoxes, pad, unaligned
from .plan import Tiling


def with_models(product: Product, operands: Sequence[Array]) -> dict[str, Array]:
    """The operands by name, in the dtype that they are multiplied in, each with an axis of models first."""
    given = dict(zip(product.operands, operands, strict=True))
    dtype = product.compute_dtype
    return {name: (a if product.models is not None else a[None]).astype(dtype) for name, a in given.items()}


@dataclasses.dataclass(frozen=True)
class Views:
    """Operands and results in global memory. dtype: of operands. out_dtype: of the input gradient."""

    tiling: Tiling
    dtype: Any
    out_dtype: Any
    interpret: bool

    @functools.cached_property
    def pixels(self) -> PixelBoxes:
        """Boxes of x, of the cotangent and of what was saved, [E N, *space, C or O]."""
        p, box = self.tiling.problem, self.tiling.cfg.step_pixels
        # An integer picks a single image, as in other families. There is no axis of groups, so several fit TMA's dimensions.
        one_image = len(p.dims) == 3 and box[0] == 1
        return PixelBoxes(p.examples * p.batch, p.dims, groups=1, one_image=one_image, interpret=self.interpret)

    @functools.cached_property
    def results(self) -> ResultBoxes:
        """Boxes of the input gradient, [E N, *space, C]."""
        p = self.tiling.problem
        return ResultBoxes(p.examples * p.batch, p.dims, 1, p.in_channels, self.out_dtype)

    def operands(self, given: dict[str, Array]) -> dict[str, Array]:
        """The operands in global memory by name: those of pixels, and w [E, O, C] with whole 16 bytes of channels."""
        w = given["w"].reshape(given["w"].shape[:3])
        found = {name: self.pixels.view(examples_as_images(a, groups=1)) for name, a in given.items() if name != "w"}
        return found | {"w": pad(w, [(0, 0), (0, 0), (0, unaligned(w.shape[-1], w.dtype))])}

    def input_gradient(self, dx: Array, product: Product) -> Array:
        """[E N, *space, C] as `results` has it -> (N, C, *space), with the models first if the product has any."""
        dx = jnp.moveaxis(self.results.result(dx), -1, 1)
        return dx.reshape(product.result_shapes[0])

    def gradients(self, sums: Sequence[Array], product: Product) -> list[Array]:
        """Parts, of `Tiling.sums_shape` and perhaps `bias_shape` -> (O, C, 1, ...) and perhaps (O,), models first, if any."""
        p = self.tiling.problem
        shapes = dict(zip(product.outputs, product.result_shapes, strict=True))
        found = [pairwise_sum(sums[0])[:, : p.out_channels, : p.in_channels].reshape(shapes["dw"])]
        if p.bias:
            of_parts = jnp.moveaxis(sums[1], 1, -2)  # [parts, warps, E, O]
            db = pairwise_sum(of_parts.reshape(-1, *of_parts.shape[-2:]))
            found.append(db[:, : p.out_channels].reshape(shapes["db"]))
        return found

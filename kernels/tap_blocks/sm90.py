"""Large depthwise kernels on Hopper as several launches of the depthwise kernel, each for some of the taps.

That kernel keeps its weights in registers, where no more than a hundred or so fit. Here it sums a block of taps a launch. The
sum so far is the residual of the next launch, in float32, so nothing is rounded on the way. What that costs is reading and
writing the sum once a launch.
"""

import itertools
from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array, lax

from pallas_conv.spec import Product

from ..depthwise import sm90
from ..depthwise.plan import Config
from ..gpu import Gpu
from .blocks import Block, blocks


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the depthwise kernel for every block of taps. Arrays are channels first, as `depthwise.sm90.run` has them."""
    given = dict(zip(product.operands, operands, strict=True))
    parts = blocks(product)

    def launch(block: Block, *arrays: Array) -> list[Array]:
        return sm90.run(block.product, cfg, gpu, *arrays, name=name, interpret=interpret)

    if product.role == "wgrad":
        found = [launch(block, given["x"], given["ct"]) for block in parts]
        return [_side_by_side({block.taps: dw for block, (dw, *_) in zip(parts, found, strict=True)}), *found[0][1:]]

    pixels, w = (given["x"], given["w"]) if product.role == "fprop" else (given["ct"], _transposed(product, given["w"]))
    outs, sums = list[Array](), given.get("r")
    for block in parts:
        bias = [given["b"]] if block.product.bias else []
        residual = [] if sums is None else [sums.astype(jnp.float32)]
        outs = launch(block, pixels, w[..., *block.taps], *bias, *residual)
        sums = outs[0]
    return [out.astype(dtype) for out, dtype in zip(outs, product.result_dtypes, strict=True)]


def _transposed(product: Product, w: Array) -> Array:
    """(O, C / groups, *kernel) -> (C, O / groups, *kernel), flipped: the weights of `as_forward`. Models stay first."""
    lead, nd, groups = w.shape[: w.ndim - 2 - product.spec.ndim], product.spec.ndim, product.spec.groups
    _, of_x, *kernel = w.shape[len(lead) :]
    grouped = w.reshape(*lead, groups, -1, of_x, *kernel)
    swapped = jnp.swapaxes(grouped, len(lead) + 1, len(lead) + 2).reshape(*lead, groups * of_x, -1, *kernel)
    return lax.rev(swapped, tuple(range(swapped.ndim - nd, swapped.ndim)))


def _side_by_side(pieces: Mapping[tuple[slice, ...], Array]) -> Array:
    """The array of pieces that hold these taps of the last dimensions, and all else of the others."""
    at = {tuple(some.start for some in taps): piece for taps, piece in pieces.items()}
    for done in range(1, 1 + len(next(iter(at)))):
        rows = itertools.groupby(at, key=lambda first: first[:-1])
        at = {first: jnp.concatenate([at[one] for one in row], axis=-done) for first, row in rows}
    return at[()]

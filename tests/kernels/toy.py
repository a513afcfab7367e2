"""A toy family: depthwise convolutions of one tap, which scale each channel. All that a family of kernels takes, in one file.

    y[pixel, c] = epilogue(w[c] * x[pixel, c])

A thread block of one warpgroup loads a tile of pixels and channels by TMA, scales it in registers, and stores it.
"""

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_conv import strict
from pallas_conv.kernels import mosaic as mgpu
from pallas_conv.kernels.cost import Work
from pallas_conv.kernels.epilogue import Epilogue
from pallas_conv.kernels.family import DTYPES, Size, fused
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.layouts import channels_first, channels_last
from pallas_conv.kernels.scalars import unravel
from pallas_conv.kernels.store import Buffers, Destination, Staging, TileStore
from pallas_conv.kernels.views import pad
from pallas_conv.spec import ConvSpec, Product

PIXELS, COLUMNS = 64, 32  # of a tile
ITEMSIZE = 2

# ------------------------------------------------------------ the plan


@dataclasses.dataclass(frozen=True)
class Config:
    """A number of chunks, of COLUMNS channels each, that a tile has."""

    chunks: int = 1

    @property
    def complexity(self) -> tuple[float, ...]:
        return (self.chunks,)

    def to_json(self) -> dict[str, Any]:
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "config") -> "Config":
        return strict.parse(cls, data, where)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Some pixels, of all images, of some channels."""

    pixels: int
    channels: int

    def tiles(self, config: Config) -> tuple[int, int]:
        """Tiles over pixels and over channels."""
        return -(-self.pixels // PIXELS), -(-self.channels // (COLUMNS * config.chunks))


def _sample(**fused: Any) -> Product:
    spec = ConvSpec((1, 1), ((0, 0),) * 2, (1, 1), (1, 1), 40, (9, 7), (1, 1))
    return Product("fprop", spec, 2, 40, 40, "bfloat16", "bfloat16", **fused)


class Toy:
    """See `pallas_conv.kernels.family.Family`."""

    name = "toy"
    roles = frozenset({"fprop"})
    bodies: Mapping[tuple[int, ...], str] = types.MappingProxyType({(9, 0): __name__})
    config: type[Any] = Config
    samples: tuple[Product, ...] = (_sample(bias=True, activation="relu"),)

    def is_for(self, product: Product, /) -> bool:
        return True

    def reasons(self, product: Product, /) -> list[str]:
        spec, found = product.spec, []
        plain = dataclasses.replace(spec, in_spatial=(1,) * spec.ndim) == ConvSpec(
            (1,) * spec.ndim, ((0, 0),) * spec.ndim, (1,) * spec.ndim, (1,) * spec.ndim, spec.groups,
            (1,) * spec.ndim, (1,) * spec.ndim,
        )  # fmt: skip
        if product.role != "fprop" or not plain:
            found.append("only a forward product of one tap is scaled")
        if not spec.groups == product.in_channels == product.out_channels or spec.groups % 8:
            found.append("each channel must be a group, and there must be a multiple of 8")
        if {product.compute_dtype, product.out_dtype} != {"bfloat16"}:
            found.append("operands must be bfloat16")
        if product.models is not None or product.residual or product.outputs != ("y",):
            found.append("an ensemble, a residual or a second output is not served")
        return found

    def problem(self, product: Product, /) -> Problem:
        return Problem(product.batch * math.prod(product.spec.in_spatial), product.in_channels)

    def illegal(self, problem: Problem, config: Config, gpu: Gpu, /) -> str | None:
        return None if config.chunks in (1, 2) else f"{config.chunks=} must be 1 or 2"

    def candidates(self, problem: Problem, gpu: Gpu, /) -> Iterator[Config]:
        yield from (Config(1), Config(2))

    def work(self, problem: Problem, config: Config, gpu: Gpu, /) -> Work:
        tiles, nbytes = math.prod(problem.tiles(config)), PIXELS * COLUMNS * config.chunks * ITEMSIZE
        sms = min(gpu.num_sms, tiles)
        return Work(
            itemsize=ITEMSIZE, mma_warpgroups=1, cluster=1, stages=2, epi_stages=1, over_images=False, sms=sms, ctas_per_sm=1,
            rounds=((-(-tiles // sms), 1),), all_steps=tiles, macs=PIXELS * COLUMNS * config.chunks, operand_bytes=nbytes,
            pixel_bytes=nbytes, weight_bytes=0, rows=PIXELS, copies=1, taps=1, pixel_readers=1, kept_bytes=0,
            chunks=config.chunks, elements=PIXELS * COLUMNS / 128, stored_bytes=nbytes, ahead=None,
            input_bytes=tiles * nbytes, weights_bytes=problem.channels * ITEMSIZE, held_bytes=sms * nbytes,
            before_bytes=0, after_bytes=0,
        )  # fmt: skip

    def size(self, product: Product, /) -> Size:
        problem = self.problem(product)
        elements = problem.pixels * problem.channels
        return Size(elements, ITEMSIZE * (2 * elements + problem.channels), 1, 1, 1)

    def series(self, product: Product, /) -> str:
        return f"{product.role}_{product.spec.ndim}d_{DTYPES[product.compute_dtype]}"

    def code_path(self, product: Product, config: Config, /) -> str:
        return f"toy {config.chunks} chunks"

    def epilogue(self, product: Product, config: Config, /) -> str:
        return f"{DTYPES[product.out_dtype]} {fused(product)}"

    def notes(self, product: Product, config: Config, /) -> list[str]:
        return []

    def __reduce__(self) -> str:
        return "TOY"


TOY = Toy()

# ------------------------------------------------------------ the body


def run(
    product: Product, config: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False
) -> list[Array]:
    """x (N, C, *in), w (C, 1, *1), b (C,) if product.bias -> [(N, C, *in)]."""
    x, w, *bias = operands
    pixels = channels_last(x[None].astype(product.compute_dtype), 1)
    problem = TOY.problem(product)
    x = pixels.reshape(problem.pixels, 1, problem.channels)
    staging = Staging(
        (PIXELS,), COLUMNS, config.chunks, 1, Epilogue(product.activation), jnp.dtype(product.out_dtype), interpret
    )
    tiles = problem.tiles(config)
    ragged = (
        tiles[1] * COLUMNS * config.chunks - problem.channels
    )  # rows of channels are read without TMA: not out of bounds
    rows = [pad(row.astype(jnp.float32).reshape(1, -1), [(0, 0), (0, ragged)]) for row in (w, *bias)]
    workers = min(gpu.num_sms, math.prod(tiles))
    buffer = mgpu.two_views((1,), (PIXELS,), COLUMNS * config.chunks, x.dtype, interpret=interpret)
    cost = mgpu.CostEstimate(flops=2 * x.size, transcendentals=0, bytes_accessed=4 * x.size)
    (y,) = mgpu.kernel(
        lambda *refs: _body(staging, tiles, workers, *refs[:2], *(refs[2:-4] or (None,)), *refs[-4:]),
        out_type=[jax.ShapeDtypeStruct(x.shape, product.out_dtype)],
        grid=(workers,),
        grid_names=("sm",),
        num_threads=1,
        thread_name="wg",
        scratch_types=[buffer, staging.buffers_type(1), mgpu.Barrier(num_barriers=1)],
        kernel_name=name,
        cost=cost,
        interpret=interpret,
    )(x, *rows)
    return [channels_first(y.reshape(*pixels.shape[:-2], -1), None)]


def _body(
    staging: Staging,
    tiles: tuple[int, int],
    workers: int,
    x: Any,
    w: Any,
    bias: Any,
    y: Any,
    source: Any,
    out: Any,
    full: Any,
) -> None:
    """Tile after tile, each loaded, scaled and stored."""
    of_tma, of_mma = (source, source) if staging.interpret else source
    buffers = Buffers(*((out, out) if staging.interpret else out), None)
    worker, columns = lax.axis_index("sm"), staging.columns * staging.chunks

    def per_tile(i: Array, _: None) -> None:
        (n_tile,), m_tile = unravel(worker + i * workers, [tiles[1]])
        pixels, channels = mgpu.ds(m_tile * PIXELS, PIXELS), mgpu.ds(n_tile * columns, columns)
        mgpu.copy_gmem_to_smem(x.at[pixels, 0, channels], of_tma.at[0], barrier=full, oob_mode=mgpu.OOBFillMode.ZEROS)
        mgpu.barrier_wait(full)
        if staging.interpret:
            value = of_tma[0]
            scale = w[0, channels]
        else:
            value = mgpu.load(of_mma.at[0], layout=mgpu.Layout.WGMMA)
            scale = mgpu.load(w.at[0, channels], layout=mgpu.Layout.WGMMA.reduce(0), optimized=False)
        sums = value.astype(jnp.float32) * lax.broadcast_in_dim(scale, value.shape, (1,))
        to = Destination(bias, None, (y,), (pixels, jnp.int32(0)), jnp.int32(0), n_tile)
        TileStore(staging, buffers, to, i, lax.axis_index("wg")).store(sums)

    count = lax.div(math.prod(tiles) - worker + workers - 1, jnp.int32(workers))
    lax.fori_loop(0, count, per_tile, None)
    mgpu.wait_smem_to_gmem(0)

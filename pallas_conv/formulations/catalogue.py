"""Every formulation by name: for which products it makes sense, what it costs, and its program."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..spec import ConvSpec, Product
from . import library, loops, matmuls
from .canonical import adjoint, adjoint_weight, canonical, upsamples
from .how import How
from .windows import by_phases, made_of

STOCK = "stock"
CHANNELS_LAST = "channels_last"  # stock's program, with operands transposed as XLA's CPU library wants them
CROPPED = "cropped"  # the same, after a pad of the dimensions that XLA would misread
LIKE_STOCK = (STOCK, CHANNELS_LAST, CROPPED)  # outside of loops XLA makes the same of them

MOST_UNROLLED = 128  # multiply-adds in one loop body
MOST_ROWS = 80  # of a block: taps far apart need long ones, which compile for seconds and run no faster
MOST_CHANNELS = 12  # of a group, in a loop over them
VERY_FEW = 4  # of a group, in a loop that writes its sums to memory
VERY_MANY = 192  # channels on both sides from which Eigen's convolution is faster than YNNPACK's, and as accurate
MOST_MATMULS = 64  # taps with a matrix product of their own
MOST_SUMMED = 16  # taps whose results are rounded before they are added
MOST_PHASES = 32  # output phases with a loop or a sum of their own

type Program = Callable[[Array, Array, ConvSpec, How], Array]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a program executes and needs, by its own structure: a model, not a measurement.

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
class Sizes:
    """The extents that conditions and costs are written in: of a product in canonical form; arrays in bytes of the sums' dtype.

    turned   whether x and ct, or channels and taps, had to change places for it
    """

    product: Product
    turned: bool = False

    @classmethod
    def of(cls, product: Product) -> "Sizes":
        q = canonical(product)
        return cls(q, q != product)

    @property
    def spec(self) -> ConvSpec:
        return self.product.spec

    @property
    def images(self) -> int:
        return self.product.batch * (self.product.models or 1)

    @property
    def taps(self) -> int:
        return math.prod(self.spec.kernel_spatial)

    @property
    def phases(self) -> int:
        """Of the output of an up-sampling convolution."""
        return math.prod(self.spec.input_dilation)

    @property
    def in_pixels(self) -> int:
        return math.prod(self.spec.in_spatial)

    @property
    def out_pixels(self) -> int:
        return math.prod(self.spec.out_spatial)

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.product.in_channels // self.spec.groups

    @property
    def group_out(self) -> int:
        return self.product.out_channels // self.spec.groups

    @property
    def itemsize(self) -> int:
        return max(4, jnp.dtype(self.product.compute_dtype).itemsize)

    @property
    def x(self) -> float:
        return float(self.itemsize) * self.images * self.product.in_channels * self.in_pixels

    @property
    def y(self) -> float:
        return float(self.itemsize) * self.images * self.product.out_channels * self.out_pixels

    @property
    def w(self) -> float:
        return float(self.itemsize) * (self.product.models or 1) * self.product.out_channels * self.group_in * self.taps

    @property
    def columns(self) -> float:
        """All windows of x side by side; none are needed where one tap meets every pixel."""
        if self.taps == 1 and max(self.spec.strides) == 1:
            return 0.0
        return float(self.itemsize) * self.images * self.product.in_channels * self.taps * self.out_pixels

    @property
    def sum_of_taps(self) -> int:
        """Multiply-adds of one output element, or of one partial sum of a weight gradient."""
        return self.taps * self.group_in

    @property
    def slides(self) -> bool:
        """An fprop without input dilation."""
        return self.product.role == "fprop" and not upsamples(self.spec)

    @property
    def spreads(self) -> bool:
        """An fprop with input dilation: each input element is spread over the output."""
        return self.product.role == "fprop" and upsamples(self.spec) and max(self.spec.strides) == 1

    @property
    def stays(self) -> bool:
        """An fprop that neither strides nor spreads."""
        return self.slides and max(self.spec.strides) == 1

    @property
    def correlates(self) -> bool:
        """A wgrad without input dilation."""
        return self.product.role == "wgrad" and not upsamples(self.spec)

    @property
    def uneven(self) -> bool:
        """Padded more on one side."""
        return any(low != high for low, high in self.spec.padding)

    @property
    def evens(self) -> bool:
        """Padded unevenly, though padding both sides by `low` gives as many outputs."""
        even = dataclasses.replace(self.spec, padding=tuple((low, low) for low, _ in self.spec.padding))
        return self.uneven and even.out_spatial == self.spec.out_spatial

    @property
    def interlaces(self) -> bool:
        """1-D without a stride, and the dilation divides the number of outputs: they can be seen as rows of an image."""
        if self.spec.ndim != 1 or self.spec.strides != (1,):
            return False
        (d,) = self.spec.kernel_dilation
        return d > 1 and self.spec.out_spatial[0] % d == 0

    @property
    def useful_flops(self) -> float:
        """A tap meets every input pixel, and every output pixel, once at most."""
        pixels = min(self.in_pixels, self.out_pixels)
        return 2.0 * self.images * self.product.out_channels * self.sum_of_taps * pixels


@dataclasses.dataclass(frozen=True)
class Formulation:
    """One way to write a product as a lax program.

    serves   whether it computes this product, at a reasonable length of program
    cost     of a product that it serves
    fprop    (x, w, spec, how) -> y
    dgrad    (ct, w, adjoint of spec, how) -> dx, where that is not fprop of w turned round
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


def _loop(f: Callable[[Array, Array, ConvSpec], Array]) -> Program:
    return lambda a, b, spec, how: f(a, b, spec)


def _by_phases(a: Array, b: Array, spec: ConvSpec, how: How) -> Array:
    return by_phases(loops.multiply_add, a, b, spec)


def _phase_taps(s: Sizes) -> int:
    per_dim = zip(s.spec.kernel_spatial, s.spec.input_dilation, strict=True)
    return math.prod(math.ceil(k / u) for k, u in per_dim)


def _multiply_add_rows(s: Sizes) -> bool:
    """Few channels, and several rows of taps, one of which can be written out."""
    rows = s.spec.kernel_spatial[0]
    several = s.spec.ndim > 1 and rows > 1
    return s.slides and several and s.group_in <= VERY_FEW and s.taps // rows <= MOST_UNROLLED


def _shifts(s: Sizes) -> int:
    """Loops of a weight gradient: taps but those along the rows, times channels of a group."""
    axis = max(0, s.spec.ndim - 2)
    return s.group_in * s.taps // s.spec.kernel_spatial[axis]


def _correlate_cost(s: Sizes) -> Cost:
    axis = max(0, s.spec.ndim - 2)
    partial = s.y * s.spec.kernel_spatial[axis] / min(loops.BLOCK, s.spec.out_spatial[axis])
    shifts, written_out = _shifts(s), loops.shifts_written_out(s.spec, s.group_in)
    moves = s.x + s.y if s.spec.ndim == 1 else 0.0
    cut_out = s.x / s.group_in if written_out < shifts else 0.0
    return Cost(
        s.useful_flops,
        shifts * (s.x / s.group_in + s.y + 2 * partial) + 2 * cut_out * shifts / written_out,
        written_out * loops.rows_written_out(s.spec),
        s.x + moves + cut_out + written_out * partial,
    )


def _steps(s: Sizes) -> int:
    """Of a weight gradient that loops over the positions of an image."""
    return math.ceil(s.out_pixels / min(loops.POSITIONS, s.spec.out_spatial[-1]))


def _unpadded(s: Sizes) -> bool:
    return not any(map(any, s.spec.padding))


def _library_cost(s: Sizes) -> Cost:
    """Of one call, with every array once more in the layout it wants."""
    return Cost(s.useful_flops, 3 * (s.x + s.y + s.w), 1, s.x + s.y + s.w)


def _depth_cost(s: Sizes) -> Cost:
    """Of 3-D as 2-D: the input once for every tap along the depth, slab by slab."""
    taps = s.x * s.spec.kernel_spatial[0] * s.spec.out_spatial[0] / s.spec.in_spatial[0]
    slabs = library.depth_slabs(s.x, s.spec)
    largest = taps * len(slabs[0]) / s.spec.out_spatial[0]
    written_out = s.spec.kernel_spatial[0] * len(slabs)
    return Cost(s.useful_flops, 4 * taps + 3 * (s.w + s.y), written_out, largest + s.y)


def _depth_to_batch_cost(s: Sizes) -> Cost:
    taps = s.spec.kernel_spatial[0]
    if library.taps_in_cotangent(s.spec, s.product.in_channels, s.product.out_channels):
        repeated, whole = taps * s.y * s.spec.in_spatial[0] / s.spec.out_spatial[0], s.x
    else:
        repeated, whole = taps * s.x * s.spec.out_spatial[0] / s.spec.in_spatial[0], s.y
    return Cost(s.useful_flops, 3 * repeated + whole + s.w, taps, repeated)


def _split_cost(s: Sizes) -> Cost:
    """Of a product with x once for each tap along W and y once for each tap along H."""
    rows, columns = s.spec.kernel_spatial
    copies = columns * s.x * s.spec.out_spatial[1] / s.spec.in_spatial[1] + rows * s.y
    return Cost(s.useful_flops, s.x + 2 * copies + s.w + s.y, rows + columns, s.x + s.y + copies)


FORMULATIONS: dict[str, Formulation] = {
    f.name: f
    for f in (
        Formulation(
            "multiply_add",
            lambda s: s.slides and s.sum_of_taps <= MOST_UNROLLED,
            lambda s: Cost(s.useful_flops, 2 * s.x + s.w + s.y, s.sum_of_taps, s.x),
            fprop=_loop(loops.multiply_add),
            loop=True,
            blocks=4,
        ),
        Formulation(
            "multiply_add_rows",
            _multiply_add_rows,
            lambda s: Cost(
                s.useful_flops,
                s.spec.kernel_spatial[0] * (2 * s.x + 2 * s.group_in * s.y) + s.w,
                s.taps // s.spec.kernel_spatial[0],
                s.x + s.x / s.group_in + 2 * s.y,
            ),
            fprop=_loop(loops.multiply_add_rows),
            loop=True,
            blocks=4,
        ),
        Formulation(
            "multiply_add_phases",
            lambda s: (
                s.spreads
                and max(s.spec.kernel_dilation) == 1
                and s.sum_of_taps <= 2 * MOST_UNROLLED
                and s.phases <= MOST_PHASES
            ),
            lambda s: Cost(s.useful_flops, 2 * s.x + s.w + 3 * s.y, s.sum_of_taps, s.x + s.y),
            fprop=_by_phases,
            loop=True,
            blocks=4,
        ),
        Formulation(
            "correlate_rows",
            lambda s: s.correlates and s.group_in <= MOST_CHANNELS and loops.rows_written_out(s.spec) <= MOST_ROWS,
            _correlate_cost,
            wgrad=_loop(loops.correlate_rows),
            loop=True,
            blocks=1,
        ),
        Formulation(
            "correlate_taps",
            lambda s: s.correlates and s.group_in <= MOST_CHANNELS,
            lambda s: Cost(
                s.useful_flops,
                s.x * s.taps / s.spec.kernel_spatial[-1] + s.y + 2 * s.images * s.w * _steps(s),
                loops.POSITIONS,
                s.x + s.y + s.images * s.w,
            ),
            wgrad=_loop(loops.correlate_taps),
            loop=True,
            blocks=1,
        ),
        Formulation(
            "im2col",
            lambda s: s.slides and s.taps <= MOST_MATMULS,
            lambda s: Cost(s.useful_flops, s.x + 2 * s.columns + s.w + s.y, s.taps, s.columns + _copies_of_w(s)),
            fprop=matmuls.im2col,
            blocks=1,
            matmul=True,
        ),
        Formulation(
            "im2col_wgrad",
            lambda s: s.correlates and s.taps <= MOST_MATMULS,
            lambda s: Cost(s.useful_flops, s.x + 2 * s.columns + s.w + s.y, s.taps, s.columns + _copies_of_w(s)),
            wgrad=matmuls.im2col_wgrad,
            blocks=1,
            matmul=True,
        ),
        Formulation(
            "split_im2col",
            lambda s: s.stays and _splits(s) and s.product.compute_dtype == "bfloat16",
            _split_cost,
            fprop=matmuls.split_im2col,
            blocks=1,
            matmul=True,
        ),
        Formulation(
            "split_im2col_wgrad",
            lambda s: s.correlates and _splits(s),
            _split_cost,
            wgrad=matmuls.split_im2col_wgrad,
            blocks=1,
            matmul=True,
        ),
        Formulation(
            "matmul_per_tap",
            lambda s: s.correlates and 1 < s.taps <= MOST_MATMULS,
            lambda s: Cost(
                s.useful_flops, 2 * s.columns + s.taps * s.y + s.w, 2 * s.taps, s.x + s.columns + _copies_of_w(s)
            ),
            wgrad=matmuls.matmul_per_tap,
            blocks=1,
            matmul=True,
        ),
        Formulation(
            "col2im",
            lambda s: (s.spreads and s.taps <= MOST_MATMULS and s.phases <= MOST_PHASES) or _shifts_few(s),
            lambda s: Cost(
                s.useful_flops, s.x + s.w + 2 * _spread(s) + 3 * s.y, s.taps, _spread(s) + s.y + _copies_of_w(s)
            ),
            fprop=matmuls.col2im,
            dgrad=matmuls.col2im_dgrad,
            blocks=1,
            matmul=True,
        ),
        Formulation(
            "depth_to_channels",
            lambda s: s.slides and s.spec.ndim == 3 and s.spec.groups == 1,
            _depth_cost,
            fprop=library.depth_to_channels,
        ),
        Formulation(
            "depth_to_channels_wgrad",
            lambda s: s.correlates and s.spec.ndim == 3 and s.spec.groups == 1,
            _depth_cost,
            wgrad=library.depth_to_channels_wgrad,
        ),
        Formulation(
            "depth_to_batch_wgrad",
            lambda s: s.correlates and s.spec.ndim == 3 and s.spec.groups == 1,
            _depth_to_batch_cost,
            wgrad=library.depth_to_batch_wgrad,
            library=True,
        ),
        Formulation(
            "exchanged",
            lambda s: s.correlates and s.turned,
            _library_cost,
            wgrad=library.exchanged,
            library=True,
        ),
        Formulation(
            "exchanged_padded",
            lambda s: s.correlates and s.turned and s.uneven,
            _library_cost,
            wgrad=library.exchanged_padded,
            library=True,
        ),
        Formulation(
            "reversed_kernel",
            lambda s: s.spreads and not s.turned and s.spec.groups == 1,
            _library_cost,
            fprop=library.reversed_kernel,
            library=True,
        ),
        Formulation(
            "padded",
            lambda s: s.slides and s.uneven,
            _library_cost,
            fprop=library.padded,
            library=True,
        ),
        Formulation(
            "evened",
            lambda s: s.slides and s.evens,
            _library_cost,
            fprop=library.evened,
            library=True,
        ),
        Formulation(
            "extra_row",
            lambda s: s.stays and s.spec.ndim == 2 and s.spec.groups == 1 and min(s.group_in, s.group_out) >= VERY_MANY,
            _library_cost,
            fprop=library.extra_row,
            library=True,
        ),
        Formulation(
            "polyphase_wgrad",
            lambda s: s.correlates and s.interlaces,
            _library_cost,
            wgrad=library.polyphase_wgrad,
            library=True,
        ),
    )
}


def _shifts_few(s: Sizes) -> bool:
    """An fprop without groups or strides, of so few taps that adding up their rounded results costs no accuracy."""
    return s.stays and s.spec.groups == 1 and s.taps <= MOST_SUMMED


def _splits(s: Sizes) -> bool:
    """Two dimensions with several taps along each."""
    return s.spec.ndim == 2 and s.spec.groups == 1 and min(s.spec.kernel_spatial) > 1


def _copies_of_w(s: Sizes) -> float:
    """Of a batched matrix product: w or a partial dw for every image, unless the batch is folded into the pixels."""
    k = s.group_in * s.taps
    pixels = s.in_pixels if upsamples(s.spec) else s.out_pixels
    times = matmuls.folded(s.spec) if s.product.role == "wgrad" else 1
    folded = s.product.batch > 1 and times * s.group_out * k > (s.group_out + k) * pixels
    return s.w if folded else s.w * s.product.batch


def _spread(s: Sizes) -> float:
    """Of col2im: every tap's result before they are added up."""
    return float(s.itemsize) * s.images * s.product.out_channels * s.taps * s.in_pixels


def serving(product: Product) -> list[Formulation]:
    """The formulations of a product beside stock's.

    None where there is nothing to compute, no canonical form, no spatial axis, or an extent that export left open; and none
    for integers, which wrap around in stock's program.
    """
    if not jnp.issubdtype(product.compute_dtype, jnp.inexact):
        return []
    models = 1 if product.models is None else product.models
    sizes = (product.batch, models, product.in_channels, product.out_channels, *product.spec.in_spatial)
    if product.spec.ndim == 0 or not all(isinstance(n, int) for n in sizes):
        return []
    s = Sizes.of(product)
    if min(*sizes, *s.spec.out_spatial, *s.spec.kernel_spatial, *product.spec.out_spatial) < 1:
        return []
    return [f for f in FORMULATIONS.values() if f.serves(s)]


def stock_temp(product: Product) -> float:
    """Temporary memory of stock's program on a CPU, modelled, at least: operands once more, in the library's layout."""
    s = Sizes.of(product)
    return max(s.x, s.y)


def block(formulation: Formulation, product: Product, cache: float | None) -> int:
    """How many images to run at once: a divisor of the batch, as many as fit into `cache` bytes with what they need."""
    if formulation.blocks is None or cache is None:
        return product.batch
    one, two = (Sizes.of(dataclasses.replace(product, batch=n)) for n in (1, 2))
    an_image = one.x + one.y + formulation.cost(two).temp - formulation.cost(one).temp
    most = max(1, int(formulation.blocks * cache / max(an_image, 1)))
    return max(n for n in range(1, product.batch + 1) if product.batch % n == 0 and n <= most)


def cost(formulation: Formulation, product: Product, cache: float | None) -> Cost:
    """Of the product, run in blocks of images."""
    whole = formulation.cost(Sizes.of(product))
    images = block(formulation, product, cache)
    if images == product.batch:
        return whole
    s = Sizes.of(dataclasses.replace(product, batch=images))
    return dataclasses.replace(whole, temp=formulation.cost(s).temp + s.x + s.y + s.w)


def run(formulation: Formulation, role: str, a: Array, b: Array, spec: ConvSpec, how: How) -> Array:
    """fprop(x, w) -> y, dgrad(ct, w) -> x or wgrad(x, ct) -> w of one model by a formulation that serves it."""
    if role == "wgrad":
        assert formulation.wgrad is not None
        if not upsamples(spec):
            return formulation.wgrad(a, b, spec, how)
        return adjoint_weight(formulation.wgrad(b, a, adjoint(spec), how), spec.groups)
    assert formulation.fprop is not None
    if role == "dgrad" and formulation.dgrad is not None:
        return formulation.dgrad(a, b, adjoint(spec), how)
    if role == "dgrad":
        b, spec = adjoint_weight(b, spec.groups), adjoint(spec)
    return formulation.fprop(a, b, spec, how)


def run_in_blocks(program: Callable[[Array, Array], Array], role: str, images: int, a: Array, b: Array) -> Array:
    """The program over `images` images at a time; weight gradients are summed."""
    n = a.shape[0]
    if n == images:
        return program(a, b)
    a = lax.optimization_barrier(a)  # all of it has to be in memory; else what it is computed from might stay, too
    # Cut out of the whole array: with a new axis of size one XLA would copy it into the loop.
    block = lambda t, i: lax.dynamic_slice_in_dim(t, i * images, images)
    if role == "wgrad":
        dw = jax.eval_shape(lambda a, b: program(block(a, 0), block(b, 0)), a, b)
        add = lambda i, total: total + program(block(a, i), block(b, i))
        return lax.fori_loop(0, n // images, add, jnp.zeros(dw.shape, dw.dtype))
    y = jax.eval_shape(lambda a, b: program(block(a, 0), b), a, b)
    write = lambda i, y: lax.dynamic_update_slice_in_dim(y, program(block(a, i), b), i * images, 0)
    return lax.fori_loop(0, n // images, write, made_of(a, (n, *y.shape[1:]), y.dtype))

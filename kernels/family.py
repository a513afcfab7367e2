"""The interface of a family of kernels: the one page to read before writing a kernel.

A family is a folder of this package, with the family's name, one object like `Family` in its `__init__.py`, a row in
`families.FAMILIES`, a ladder of small products in `workloads/ladder`, and two entries in pyproject.toml: `packages` and
`package-dir`. Nothing else in the package names it, but for a family that launches its kernel. It has

    a plan      what it computes (`problem`), the ways to tile that (`candidates`), which of them are legal (`illegal`),
                and what each costs, counted (`work`): pure Python, no Pallas
    bodies      a file for each GPU generation, with the function `run`, imported when a kernel is about to run
    keys        names under which hardware runs file what they proved (`code_path`, `epilogue`) and timed (`series`)

Files named search.py and work.py say nothing but which candidates there are and what they cost: an edit of them makes times
obsolete, and leaves proofs valid. An edit of any other file asks for new proofs (digest.py).

Everything else is shared: the choice among candidates by the cost model or by tuned tiles, records, doctor, benchmarks, the
emulator. Device code that families share lies beside this file: ring.py, views.py, store.py, epilogue.py, scalars.py. Reasons
and names that families have in common are at the end of this one.
"""

import dataclasses
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from pallas_conv import strict
from pallas_conv.activations import ACTIVATIONS
from pallas_conv.spec import Product

from .cost import Work
from .geometry import TapAxis
from .gpu import MAX_ELEMENTS, Gpu

DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}  # as names of kernels have them
EPILOGUE_OUTPUTS = (("y",), ("z",), ("y", "z"))
MAX_KERNEL = 64  # taps a side
MOST_NARROW = 8  # channels of a group, of which an 8x8 tile of a tensor core holds one or several
LEAST_CHANNELS = MOST_NARROW + 1  # of a group that is a matrix product by itself
FORMER_NAMES = {"family": "series"}  # of fields of Facts, in rows of hardware runs that are kept as they were written


class Size(NamedTuple):
    """The size of a product.

    macs      multiply-adds of the definition
    nbytes    bytes of all operands, read once, and all results, written once
    summed    channels of a group that are summed over
    produced  channels of a group that result
    taps      taps that an output element sums over, on average
    """

    macs: float
    nbytes: float
    summed: float
    produced: float
    taps: float

    def distance(self, other: "Size") -> float:
        """The distance in octaves: 1 is twice as large in one respect."""
        return math.hypot(*(math.log2(a / b) for a, b in zip(self, other, strict=True)))


class Facts(NamedTuple):
    """The names under which a hardware run files what it found about a kernel, and the size of what it timed.

    A kernel is right if its main loop is (`code_path`: how operands move, are multiplied and leave) and its arithmetic on a
    sum on the way out is (`epilogue`: the same on float32 registers whatever the tile). Any product that runs one of them
    proves it. Its speed depends on the `series` of products and on their size.
    """

    code_path: str
    epilogue: str
    series: str
    size: Size

    def to_json(self) -> dict[str, Any]:
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "facts") -> "Facts":
        """The inverse of `to_json`. Raises ValueError, which names the field below `where`, for anything else."""
        return strict.parse(cls, strict.renamed(data, FORMER_NAMES, where), where)


class Config(Protocol):
    """A way to tile a problem: frozen, hashable, printable, and JSON."""

    def __hash__(self) -> int: ...

    @property
    def complexity(self) -> tuple[float, ...]:
        """A sort key, lower for simpler configurations. Of two that are equally fast the simpler one is taken."""

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, data: Any, where: str = "config") -> Self:
        """The inverse of `to_json`. Raises ValueError for anything else."""


class Family(Protocol):
    """A family of kernels. P stands for its own description of a problem.

    There is one object of each, by which kernels and plans are compared. So it is pickled by its name, as a module's global.

    name     the first word of its kernels' names
    roles    the products it computes, of those that `spec.OUTPUTS` lists
    bodies   compute capability -> the module, named as in `from .dense.sm90 import run`, with the function `run`:
             run(product, config, gpu, *operands, name, interpret) -> results, all arrays channels first
    config   the class of its configurations
    samples  small products that together run every feature once, in an interpreter
    """

    def __hash__(self) -> int: ...

    def __reduce__(self) -> str | tuple[Any, ...]: ...

    name: str
    roles: frozenset[str]
    bodies: Mapping[tuple[int, ...], str]
    config: type[Any]
    samples: tuple[Product, ...]

    def is_for(self, product: Product, /) -> bool:
        """Whether the family is for groups of this product's size. Where some are, users read the reasons of these alone."""

    def reasons(self, product: Product, /) -> Sequence[str]:
        """Every reason why the family does not serve a product on the GPUs that its bodies are for; empty if it does."""

    def problem(self, product: Product, /) -> Hashable:
        """The product as the kernel sees it (P). Products with equal problems get the same tile."""

    def illegal(self, problem: Any, config: Any, gpu: Gpu, /) -> str | None:
        """The reason against a configuration, or None."""

    def candidates(self, problem: Any, gpu: Gpu, /) -> Iterator[Any]:
        """Legal configurations that may be the fastest: some hundreds."""

    def work(self, problem: Any, config: Any, gpu: Gpu, /) -> Work:
        """The work that a configuration asks of the chip, counted. Nothing of it is a model or a measurement."""

    def size(self, product: Product, /) -> Size:
        """The size of a product."""

    def series(self, product: Product, /) -> str:
        """A name for products that are treated alike but for their size and epilogue: times of one speak for others."""

    def code_path(self, product: Product, config: Any, /) -> str:
        """A name for the code that computes and moves a tile: products alike in it are proven together."""

    def epilogue(self, product: Product, config: Any, /) -> str:
        """A name for what happens to a sum before it is stored."""

    def notes(self, product: Product, config: Any, /) -> Sequence[str]:
        """The copies that XLA makes around the kernel, for users to read."""


def fused(product: Product) -> str:
    """The name of a product's epilogue. It names no activation if the product returns only z, which is taken before it."""
    return dataclasses.replace(product, activation=None).epilogue if product.outputs == ("z",) else product.epilogue


def dtype_reasons(product: Product) -> list[str]:
    """The reasons against a product's dtypes."""
    found = []
    if product.compute_dtype not in DTYPES:
        found.append(f"operands must be {', '.join(DTYPES)}, not {product.compute_dtype}")
    if product.out_dtype not in (product.compute_dtype, "float32"):
        found.append(
            f"the result must be {product.compute_dtype} like the operands, or float32, not {product.out_dtype}"
        )
    return found


def epilogue_reasons(product: Product) -> list[str]:
    """The reasons against what a product does with its sums, where forward products have bias, residual and activation."""
    found = []
    if product.activation not in (None, *ACTIVATIONS):
        found.append(f"the activation {product.activation!r} is not fused")
    if product.role == "fprop" and product.outputs not in EPILOGUE_OUTPUTS:
        found.append(f"the outputs {product.outputs} are not written: ('y',), ('z',) and ('y', 'z') are")
    if product.role != "fprop" and product.epilogue != "linear":
        found.append("only a forward product has a fused epilogue")
    return found


def geometry_reasons(product: Product) -> list[str]:
    """The reasons against a product's dimensions and taps."""
    spec, found = product.spec, []
    if not 1 <= spec.ndim <= 3:
        found.append(f"1 to 3 spatial dimensions are served, not {spec.ndim}")
    if any(k > MAX_KERNEL for k in spec.kernel_spatial):
        found.append(f"the kernel must be at most {MAX_KERNEL} a side, not {spec.kernel_spatial}")
    return found


def group_reasons(product: Product) -> list[str]:
    """The reasons against groups that are too small to be matrix products."""
    channels = channels_of_a_group(product)
    if product.spec.groups == 1 or min(channels) >= LEAST_CHANNELS:
        return []
    given, wanted = channels
    either = f"at least {LEAST_CHANNELS} channels both in and out, or at most {MOST_NARROW}"
    return [f"a group must have {either}, not {given} in and {wanted} out"]


def narrow(product: Product) -> bool:
    """Whether groups have few channels, both in and out. A single group is, if it has one channel in and one out."""
    channels = channels_of_a_group(product)
    return max(channels) <= MOST_NARROW and (product.spec.groups > 1 or channels == (1, 1))


def channels_of_a_group(product: Product) -> tuple[int, int]:
    """Channels (in, out) of a group."""
    return product.in_channels // product.spec.groups, product.out_channels // product.spec.groups


def empty_reasons(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """A reason for every array, by its name, that is empty."""
    return [f"{name} is empty: its shape is {shape}" for name, shape in shapes.items() if not math.prod(shape)]


def large_reasons(elements: Mapping[str, int]) -> list[str]:
    """A reason for every array, by its name, that has more elements than a kernel can index."""
    counted = f"{MAX_ELEMENTS} elements, zeros that it is padded with included"
    return [f"{name} has more than {counted}" for name, count in elements.items() if count > MAX_ELEMENTS]


def series_of(product: Product, strides: str) -> str:
    """A name for products of a rank, dtypes, strides, groups and models that are treated alike.

    Groups of one channel are not named.
    """
    dtype = DTYPES[product.compute_dtype]
    if product.out_dtype != product.compute_dtype:
        dtype += DTYPES[product.out_dtype]
    several = ["grouped"] * (1 < product.spec.groups < product.in_channels) + ["models"] * (product.models is not None)
    return "_".join([f"{product.spec.ndim}d", dtype, strides, *several])


def strides_of(dims: Sequence[TapAxis]) -> str:
    """The strides of the pixels that taps read (s), and of the output phases (u, as in up-sampling), as a word."""
    strides = "s" + as_word([d.in_stride for d in dims])
    return strides + ("u" + as_word([d.out_stride for d in dims]) if any(d.out_stride > 1 for d in dims) else "")


def as_word(strides: Sequence[int]) -> str:
    """The strides as one word: one number if they are the same in every dimension."""
    return "x".join(map(str, strides if len(set(strides)) > 1 else strides[:1]))


def changed_fields(config: Any) -> str:
    """A configuration, which is a dataclass, as text: its first field, and all that are not as by default."""
    first, *rest = dataclasses.fields(config)
    fields = [first, *(field for field in rest if field.default != getattr(config, field.name))]
    return ", ".join(f"{field.name}={getattr(config, field.name)}" for field in fields)

"""Equations: the mathematics of the primitives, with no JAX machinery. Operands, shapes, and every primitive as a formula.

Operands, channels first, with any number of leading axes (E: independent problems, N: images of one problem):

    x: (*E, *N, C, *in)   w: (*E, O, C // groups, *kernel)   y: (*E, *N, O, *out)   b: (*E, O)

Names of operands and outputs: x, w, b, r the primal operands, r being what is added to the sum like y (a residual); a what an
activation saved (its y or z); ct a cotangent of y; dx, dw, db, dr the (co)tangents of x, w, b, r.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .activations import ACTIVATIONS, applied
from .spec import OUTPUTS, ConvSpec, Product

type Names = tuple[str, ...]
type Outs = tuple[tuple[str, np.dtype], ...]
type Operand = Any  # an array, or what has the shape and the dtype of one
type Contract = Callable[[str, Array, Array, "Op", np.dtype], Array]

BILINEAR: dict[str, tuple[tuple[str, str], str]] = {  # contraction -> (operands, output)
    "fprop": (("x", "w"), "y"),
    "dgrad": (("ct", "w"), "dx"),
    "wgrad": (("x", "ct"), "dw"),
}
SOURCES = {  # what an output is contracted from
    "y": ("x", "w"),
    "z": ("x", "w"),
    "dx": ("ct", "w"),
    "dw": ("x", "ct"),
    "db": ("ct",),
    "dr": ("ct",),
}


def wider(a: Any, b: Any) -> np.dtype:
    """The one with more bytes; of two kinds of 16 bits, float32 (jnp.promote_types raises under strict promotion)."""
    a, b = jnp.dtype(a), jnp.dtype(b)
    if a != b and a.itemsize == b.itemsize < 4:
        return jnp.dtype(jnp.float32)
    return a if a.itemsize >= b.itemsize else b


@dataclasses.dataclass(frozen=True)
class Op:
    """The static part of an equation; hashable, shared by all derivatives of one call.

    ensemble_axes   number of leading axes E that every operand has
    channels_last   whether the caller's images lie so, which a lax program may make use of
    compute_dtype   what operands are multiplied in
    sum_dtype       what a lax program keeps fprop's sum in until bias and activation are applied (a kernel: float32)
    precision       as lax.conv_general_dilated takes it, read from the configuration when the call was traced
    implementation  names in order of preference
    """

    spec: ConvSpec
    compute_dtype: np.dtype
    sum_dtype: np.dtype
    activation: str | None = None
    precision: Any = None
    implementation: tuple[str, ...] = ("auto",)
    ensemble_axes: int = 0
    channels_last: bool = False

    @property
    def accumulator_dtype(self) -> np.dtype:
        return wider(self.compute_dtype, jnp.float32)

    def batch_axes(self, ndim: int) -> int:
        """Number of axes N of an x- or y-shaped operand that has `ndim` axes."""
        return ndim - self.ensemble_axes - self.spec.ndim - 1

    def replace(self, **changes: Any) -> "Op":
        return dataclasses.replace(self, **changes)

    def linear(self) -> "Op":
        return self.replace(activation=None)


# ---------------------------------------------------------------- names -> kinds -> factors -> shapes


def kind(name: str) -> str:
    """The letter of x, w, b, y that the operand or output is shaped like."""
    return {"x": "x", "dx": "x", "w": "w", "dw": "w", "b": "b", "db": "b"}.get(name, "y")


def factors(op: Op, kind_: str, batch_axes: int) -> list[str]:
    """One letter per logical axis: e models, n batch, c and o channels, p, q and r the spatial axes of x, w and y."""
    e, n = [f"e{i}" for i in range(op.ensemble_axes)], [f"n{i}" for i in range(batch_axes)]
    spatial = range(op.spec.ndim)
    return {
        "x": [*e, *n, "c", *(f"p{i}" for i in spatial)],
        "y": [*e, *n, "o", *(f"r{i}" for i in spatial)],
        "w": [*e, "o", "c" if op.spec.groups == 1 else "d", *(f"q{i}" for i in spatial)],
        "b": [*e, "o"],
    }[kind_]


# ---------------------------------------------------------------- formulas


def per_channel(op: Op, b: Array, ndim: int) -> Array:
    """(*E, O) -> broadcastable against a y of `ndim` axes."""
    return lax.expand_dims(b, _other_axes(op, ndim))


def sum_per_channel(op: Op, g: Array) -> Array:
    """y-shaped -> (*E, O)."""
    return g.sum(_other_axes(op, g.ndim))


def _other_axes(op: Op, ndim: int) -> tuple[int, ...]:
    return (*range(op.ensemble_axes, op.ensemble_axes + op.batch_axes(ndim)), *range(ndim - op.spec.ndim, ndim))


def times_derivative(op: Op, a: Array, t: Array) -> Array:
    """act'(a) * t, in the dtype of t."""
    assert op.activation is not None
    return (ACTIVATIONS[op.activation].derivative(a) * t.astype(a.dtype)).astype(t.dtype)


def gradient_at_sum(op: Op, v: Mapping[str, Array]) -> Array:
    """The cotangent of the sum, g = act'(a) * ct, in the accumulator's dtype, or its own if that is wider."""
    g = v["ct"].astype(wider(op.accumulator_dtype, v["ct"].dtype))
    return times_derivative(op, v["a"].astype(g.dtype), g) if "a" in v else g


def add_terms(op: Op, s: Array, b: Array | None, r: Array | None, dtype: Any) -> Array:
    """Bias and residual onto the sum of products."""
    # Integers that are added to what is not become like it, whatever their size.
    promoted = jnp.issubdtype(dtype, jnp.inexact) and not jnp.issubdtype(op.sum_dtype, jnp.inexact)
    s = s.astype(dtype if promoted else wider(op.sum_dtype, dtype))
    s = s if b is None else s + per_channel(op, b.astype(s.dtype), s.ndim)
    return s if r is None else s + r.astype(s.dtype)


# ---------------------------------------------------------------- operands -> products


def precision_name(precision: Any) -> str | None:
    """A precision as lax takes it -> None, "default", "high", "highest", or its own spelling if it is none of these."""
    if precision is None:
        return None
    name = precision.name if isinstance(precision, lax.Precision) else str(precision)
    synonyms = {
        "bfloat16": "default",
        "fastest": "default",
        "bfloat16_3x": "high",
        "float32": "highest",
    }
    return synonyms.get(name.lower(), name.lower())


def collapse_axes(op: Op, name: str, t: Array) -> Array:
    """An operand or output with at most one axis E and, for x and y, exactly one axis N."""
    models, rest = t.shape[: op.ensemble_axes], t.shape[op.ensemble_axes :]
    if kind(name) in "xy":
        n = op.batch_axes(t.ndim)
        rest = (math.prod(rest[:n]), *rest[n:])
    return t.reshape(*([math.prod(models)] if op.ensemble_axes else []), *rest)


def make_product(role: str, op: Op, shapes: Mapping[str, Sequence[int]], out_dtype: Any, **epilogue: Any) -> Product:
    """The Product of a contraction over operands of these shapes (names as in BILINEAR, or with x for dx and so on)."""
    (first, second), _ = BILINEAR[role]
    image = shapes[first]
    n = op.batch_axes(len(image))
    channel = op.ensemble_axes + n
    size = {kind(first): image[channel]}
    if role == "wgrad":
        size["y"] = shapes[second][channel]
    else:
        w = shapes[second]
        size = {"x": w[op.ensemble_axes + 1] * op.spec.groups, "y": w[op.ensemble_axes]}
    return Product(
        role=role,
        spec=op.spec,
        batch=math.prod(image[op.ensemble_axes : channel]),
        in_channels=size["x"],
        out_channels=size["y"],
        compute_dtype=jnp.dtype(op.compute_dtype).name,
        out_dtype=jnp.dtype(out_dtype).name,
        models=math.prod(image[: op.ensemble_axes]) if op.ensemble_axes else None,
        precision=precision_name(op.precision),
        **epilogue,
    )


def operands_of(product: Product) -> list[jax.ShapeDtypeStruct]:
    """The shapes and dtypes of a product's operands, as a layer hands them over."""
    dtypes = [product.out_dtype if name == "r" else product.compute_dtype for name in product.operands]
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(product.operand_shapes, dtypes, strict=True)]


# ---------------------------------------------------------------- equations


@dataclasses.dataclass(frozen=True)
class Equation:
    """One equation of a primitive; hashable.

    names           of its operands
    outs            names and dtypes of its outputs
    no_kernels      why none may run here, whatever they support
    beside_kernels  whether to plan as if kernels served other products of the layer, as doctor has it planned, one by one
    divided         over several devices by XLA: looping over blocks of images would gather them
    """

    primitive: str
    op: Op
    names: Names
    outs: Outs
    no_kernels: str | None = None
    beside_kernels: bool = False
    divided: bool = False

    @classmethod
    def of(
        cls,
        product: Product,
        implementation: tuple[str, ...],
        no_kernels: str | None = None,
        beside_kernels: bool = False,
    ) -> "Equation":
        """The equation of one product, or of one that has several parts, see `wholes`."""
        dtype = jnp.dtype(product.compute_dtype)
        op = Op(
            product.spec, dtype, dtype, product.activation, product.precision, implementation,
            ensemble_axes=int(product.models is not None),
        )  # fmt: skip
        outputs: tuple[str, ...]
        if product.epilogue == "linear" and product.role in BILINEAR:
            primitive, outputs = product.role, (BILINEAR[product.role][1],)
        else:
            primitive, outputs = "affine" if product.role == "fprop" else "bwd", product.outputs
        outs = zip(outputs, map(jnp.dtype, product.result_dtypes), strict=True)
        return cls(primitive, op, product.operands, tuple(outs), no_kernels, beside_kernels)

    def contraction(self, role: str, op: Op, dtype: Any) -> "Equation":
        """The bare product of this equation in a role."""
        names, out = BILINEAR[role]
        return dataclasses.replace(self, primitive=role, op=op.linear(), names=names, outs=((out, np.dtype(dtype)),))

    def batch_axes(self, shapes: Iterable[Sequence[int]]) -> int:
        """Number of axes N of the equation's images."""
        shaped = zip(self.names, shapes, strict=True)
        return next(self.op.batch_axes(len(s)) for n, s in shaped if kind(n) in "xy")

    def factors(self, shapes: Sequence[Sequence[int]]) -> tuple[list[list[str]], list[list[str]]]:
        """Factors of every operand and of every output."""
        n = self.batch_axes(shapes)
        letters = lambda name: factors(self.op, kind(name), n)
        return [letters(name) for name in self.names], [letters(name) for name, _ in self.outs]

    def out_shapes(self, shapes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """Shapes of the outputs, of operands of these shapes."""
        spec, (operand_factors, result_factors) = self.op.spec, self.factors(shapes)
        paired = (zip(fs, shape, strict=True) for fs, shape in zip(operand_factors, shapes, strict=True))
        size = {f: n for pairs in paired for f, n in pairs}
        if "d" in size:  # input channels of one group
            size.setdefault("c", size["d"] * spec.groups)
        elif "c" in size:
            size["d"] = size["c"] // spec.groups
        for letter, extents in (("p", spec.in_spatial), ("q", spec.kernel_spatial), ("r", spec.out_spatial)):
            size |= {f"{letter}{i}": n for i, n in enumerate(extents)}
        return [tuple(size[f] for f in fs) for fs in result_factors]

    def formula(self, v: Mapping[str, Array], contract: Contract) -> list[Array]:
        """The outputs by their definition, of operands by name.

        affine   y = act(z), z = conv(x, w) + b + r
        tangent  y = act'(a) * (conv(dx, w) + conv(x, dw) + db + dr)
        bwd      g = act'(a) * ct, contracted with w, with x, with 1: dx, dw, db; and g itself: dr

        contract(role, a, b, op, dtype) is a lax program, a kernel, or a bind of the bilinear primitive.
        """
        op, dtypes = self.op, dict(self.outs)
        if self.primitive in BILINEAR:
            (first, second), ((_, dtype),) = BILINEAR[self.primitive][0], self.outs
            return [contract(self.primitive, v[first], v[second], op, dtype)]
        results: dict[str, Callable[[], Array]]
        if self.primitive == "affine":
            s = contract("fprop", v["x"], v["w"], op, op.sum_dtype)
            z = add_terms(op, s, v.get("b"), v.get("r"), self.outs[0][1])
            results = {"z": lambda: z, "y": lambda: applied(op.activation, z)}
        elif self.primitive == "tangent":
            terms = [contract("fprop", v[a], v[b], op, op.sum_dtype) for a, b in _tangents(v)]
            t = add_terms(op, sum(terms[1:], terms[0]), v.get("db"), v.get("dr"), self.outs[0][1])
            results = {"y": lambda: times_derivative(op, v["a"], t) if "a" in v else t}
        else:
            g = gradient_at_sum(op, v)
            real_sum = not jnp.issubdtype(op.compute_dtype, jnp.complexfloating)  # though its bias may be complex
            of_sum = g.real if real_sum else g
            results = {
                "dx": lambda: contract("dgrad", of_sum, v["w"], op, dtypes["dx"]),
                "dw": lambda: contract("wgrad", v["x"], of_sum, op, dtypes["dw"]),
                "db": lambda: sum_per_channel(op, g),
                "dr": lambda: g,
            }
        return [results[name]().astype(dtype) for name, dtype in self.outs]

    def products(self, shapes: Sequence[Sequence[int]]) -> list[Product]:
        """The products that the equation multiplies, in the order in which `formula` contracts."""
        op, shape, dtypes = self.op, dict(zip(self.names, shapes, strict=True)), dict(self.outs)
        if self.primitive in BILINEAR:
            return [make_product(self.primitive, op, shape, self.outs[0][1])]
        if self.primitive == "affine":
            epilogue = {"bias": "b" in shape, "residual": "r" in shape, "activation": op.activation}
            wanted = tuple(n for n in ("y", "z") if n in dtypes)
            return [make_product("fprop", op, shape, self.outs[0][1], outputs=wanted, **epilogue)]
        if self.primitive == "tangent":
            return [
                make_product("fprop", op, {"x": shape[a], "w": shape[b]}, op.sum_dtype) for a, b in _tangents(shape)
            ]
        roles = {"dx": "dgrad", "dw": "wgrad"}
        return [make_product(roles[name], op, shape, dtype) for name, dtype in self.outs if name in roles]

    def wholes(self, operands: Sequence[Operand]) -> list[Product]:
        """The products of several outputs that one kernel may compute instead of several; that with the most first.

        There are some for a backward pass that wants dw and others, which read the same cotangent: "bwd", or "wgrad" with "db"
        where nobody wants dx. The second leaves db out, for kernels that cannot sum it. None is offered with dr, which is the
        cotangent times act', and so XLA's. If `_rounds_operands` holds, none is offered with act', and none with db.
        """
        wanted = {name for name, _ in self.outs}
        if self.primitive != "bwd" or "dr" in wanted or "dw" not in wanted:
            return []
        other_numbers = self._rounds_operands(operands)
        if "a" in self.names and other_numbers:
            return []
        fewer = [wanted] * (not other_numbers) + [wanted - {"db"}]
        return [self._at_once(some, operands) for some in dict.fromkeys(map(frozenset, fewer)) if len(some) > 1]

    def _at_once(self, wanted: frozenset[str], operands: Sequence[Operand]) -> Product:
        """The product of all these outputs."""
        role = "bwd" if "dx" in wanted else "wgrad"
        part = self.products([t.shape for t in operands])[0]
        return dataclasses.replace(
            part,
            role=role,
            out_dtype=dict(self.outs)["dx" if "dx" in wanted else "dw"].name,
            activation=self.op.activation if "a" in self.names else None,
            outputs=tuple(name for name in OUTPUTS[role] if name in wanted),
        )

    def in_passing(self, part: Product, operands: Sequence[Operand]) -> Product | None:
        """One of the equation's products with what a kernel may sum of its operands in passing; None if nothing is wanted.

        That is the bias gradient beside the weight gradient: both read the cotangent. Where act' multiplies it, XLA makes it
        in float32, and sums it as it does; likewise if `_rounds_operands` holds.
        """
        if self.primitive != "bwd" or part.role != "wgrad" or "db" not in dict(self.outs) or "a" in self.names:
            return None
        return None if self._rounds_operands(operands) else dataclasses.replace(part, outputs=("dw", "db"))

    def _rounds_operands(self, operands: Sequence[Operand]) -> bool:
        """Whether kernels would round the cotangent, or what the activation saved: they read the compute dtype."""
        dtypes = [t.dtype for name, t in zip(self.names, operands, strict=True) if name in ("ct", "a")]
        return any(jnp.dtype(dtype) != self.op.compute_dtype for dtype in dtypes)

    def without(self, computed: Iterable[str]) -> "Equation":
        """The equation of the other outputs, once these are there."""
        return dataclasses.replace(self, outs=tuple(out for out in self.outs if out[0] not in set(computed)))


def _tangents(names: Iterable[str]) -> list[tuple[str, str]]:
    """The operands of the convolutions in a tangent, of those that there are."""
    there = set(names)
    return [pair for pair in (("dx", "w"), ("x", "dw")) if there.issuperset(pair)]

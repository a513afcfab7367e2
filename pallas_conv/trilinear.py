"""The mathematics of the primitives, with no JAX machinery: operands, shapes, and every primitive as a formula.

Operands, channels first, with any number of leading axes (E: independent problems, N: images of one problem):

    x: (*E, *N, C, *in)   w: (*E, O, C // groups, *kernel)   y: (*E, *N, O, *out)   b: (*E, O)

An equation of a primitive is (primitive, op, names, outs): the static `Op`, the names of its operands, and the names and
dtypes of its outputs. Names: x, w, b, r the primal operands, r being what is added to the sum like y (a residual); a what an
activation saved (its y or z); ct a cotangent of y; dx, dw, db, dr the (co)tangents of x, w, b, r.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .activations import ACTIVATIONS
from .spec import ConvSpec, Product

type Names = tuple[str, ...]
type Outs = tuple[tuple[str, np.dtype], ...]
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
    """Everything static about an equation; hashable, shared by all derivatives of one call.

    models          how many leading axes E every operand has
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
    models: int = 0
    channels_last: bool = False

    @property
    def accumulator_dtype(self) -> np.dtype:
        return wider(self.compute_dtype, jnp.float32)

    def batch_axes(self, ndim: int) -> int:
        """How many axes N an x- or y-shaped operand of `ndim` axes has."""
        return ndim - self.models - self.spec.ndim - 1

    def replace(self, **changes: Any) -> "Op":
        return dataclasses.replace(self, **changes)

    def linear(self) -> "Op":
        return self.replace(activation=None)


# ---------------------------------------------------------------- names -> kinds -> factors -> shapes


def kind(name: str) -> str:
    """Which of x, w, b, y the operand or output is shaped like."""
    return {"x": "x", "dx": "x", "w": "w", "dw": "w", "b": "b", "db": "b"}.get(name, "y")


def factors(op: Op, kind_: str, batch_axes: int) -> list[str]:
    """One letter per logical axis: e models, n batch, c and o channels, p, q and r the spatial axes of x, w and y."""
    e, n = [f"e{i}" for i in range(op.models)], [f"n{i}" for i in range(batch_axes)]
    spatial = range(op.spec.ndim)
    return {
        "x": [*e, *n, "c", *(f"p{i}" for i in spatial)],
        "y": [*e, *n, "o", *(f"r{i}" for i in spatial)],
        "w": [*e, "o", "c" if op.spec.groups == 1 else "d", *(f"q{i}" for i in spatial)],
        "b": [*e, "o"],
    }[kind_]


def batch_axes_of(op: Op, names: Iterable[str], shapes: Iterable[Sequence[int]]) -> int:
    return next(op.batch_axes(len(s)) for n, s in zip(names, shapes, strict=True) if kind(n) in "xy")


def equation_factors(op: Op, names: Names, outs: Outs, shapes: Sequence[Sequence[int]]):
    """Factors of every operand and of every output."""
    n = batch_axes_of(op, names, shapes)
    return [factors(op, kind(name), n) for name in names], [factors(op, kind(name), n) for name, _ in outs]


def out_shapes(op: Op, names: Names, outs: Outs, shapes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    operand_factors, result_factors = equation_factors(op, names, outs, shapes)
    size = {f: n for fs, shape in zip(operand_factors, shapes, strict=True) for f, n in zip(fs, shape, strict=True)}
    if "d" in size:  # input channels of one group
        size.setdefault("c", size["d"] * op.spec.groups)
    elif "c" in size:
        size["d"] = size["c"] // op.spec.groups
    for letter, extents in (("p", op.spec.in_spatial), ("q", op.spec.kernel_spatial), ("r", op.spec.out_spatial)):
        size |= {f"{letter}{i}": n for i, n in enumerate(extents)}
    return [tuple(size[f] for f in fs) for fs in result_factors]


# ---------------------------------------------------------------- formulas


def per_channel(op: Op, b: Array, ndim: int) -> Array:
    """(*E, O) -> broadcastable against a y of `ndim` axes."""
    return lax.expand_dims(b, _other_axes(op, ndim))


def sum_per_channel(op: Op, g: Array) -> Array:
    """y-shaped -> (*E, O)."""
    return g.sum(_other_axes(op, g.ndim))


def _other_axes(op: Op, ndim: int) -> tuple[int, ...]:
    return (*range(op.models, op.models + op.batch_axes(ndim)), *range(ndim - op.spec.ndim, ndim))


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


def formula(primitive: str, op: Op, v: Mapping[str, Array], outs: Outs, contract: Contract) -> list[Array]:
    """The outputs of an equation by its definition.

    affine   y = act(z), z = conv(x, w) + b + r
    tangent  y = act'(a) * (conv(dx, w) + conv(x, dw) + db + dr)
    bwd      g = act'(a) * ct, contracted with w, with x, with 1: dx, dw, db; and g itself: dr

    contract(role, a, b, op, dtype) is a lax program, a kernel, or a bind of the bilinear primitive.
    """
    if primitive in BILINEAR:
        (first, second), dtype = BILINEAR[primitive][0], outs[0][1]
        return [contract(primitive, v[first], v[second], op, dtype)]
    results: dict[str, Callable[[], Array]]
    if primitive == "affine":
        z = add_terms(op, contract("fprop", v["x"], v["w"], op, op.sum_dtype), v.get("b"), v.get("r"), outs[0][1])
        results = {"z": lambda: z, "y": lambda: z if op.activation is None else ACTIVATIONS[op.activation].f(z)}
    elif primitive == "tangent":
        pairs = [(v[a], v[b]) for a, b in (("dx", "w"), ("x", "dw")) if a in v and b in v]
        terms = [contract("fprop", a, b, op, op.sum_dtype) for a, b in pairs]
        t = add_terms(op, sum(terms[1:], terms[0]), v.get("db"), v.get("dr"), outs[0][1])
        results = {"y": lambda: times_derivative(op, v["a"], t) if "a" in v else t}
    else:
        g = gradient_at_sum(op, v)
        real_sum = not jnp.issubdtype(op.compute_dtype, jnp.complexfloating)  # though its bias may be complex
        of_sum = g.real if real_sum else g
        dtypes = dict(outs)
        results = {
            "dx": lambda: contract("dgrad", of_sum, v["w"], op, dtypes["dx"]),
            "dw": lambda: contract("wgrad", v["x"], of_sum, op, dtypes["dw"]),
            "db": lambda: sum_per_channel(op, g),
            "dr": lambda: g,
        }
    return [results[name]().astype(dtype) for name, dtype in outs]


# ---------------------------------------------------------------- equations -> products


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


def fold_axes(op: Op, name: str, t: Array) -> Array:
    """At most one axis E and, for x and y, exactly one axis N."""
    models, rest = t.shape[: op.models], t.shape[op.models :]
    if kind(name) in "xy":
        n = op.batch_axes(t.ndim)
        rest = (math.prod(rest[:n]), *rest[n:])
    return t.reshape(*([math.prod(models)] if op.models else []), *rest)


def product(role: str, op: Op, shapes: Mapping[str, Sequence[int]], out_dtype: Any, **epilogue: Any) -> Product:
    """The Product of a contraction over operands of these shapes (names as in BILINEAR, or with x for dx and so on)."""
    (first, second), _ = BILINEAR[role]
    image = shapes[first]
    n = op.batch_axes(len(image))
    channel = op.models + n
    size = {kind(first): image[channel]}
    if role == "wgrad":
        size["y"] = shapes[second][channel]
    else:
        w = shapes[second]
        size = {"x": w[op.models + 1] * op.spec.groups, "y": w[op.models]}
    return Product(
        role=role,
        spec=op.spec,
        batch=math.prod(image[op.models : channel]),
        in_channels=size["x"],
        out_channels=size["y"],
        compute_dtype=jnp.dtype(op.compute_dtype).name,
        out_dtype=jnp.dtype(out_dtype).name,
        models=math.prod(image[: op.models]) if op.models else None,
        precision=precision_name(op.precision),
        **epilogue,
    )


def products(primitive: str, op: Op, names: Names, outs: Outs, shapes: Sequence[Sequence[int]]) -> list[Product]:
    """What the equation multiplies, in the order in which `formula` contracts."""
    shape = dict(zip(names, shapes, strict=True))
    dtypes = dict(outs)
    if primitive in BILINEAR:
        return [product(primitive, op, shape, outs[0][1])]
    if primitive == "affine":
        epilogue = {"bias": "b" in names, "residual": "r" in names, "activation": op.activation}
        wanted = tuple(n for n in ("y", "z") if n in dtypes)
        return [product("fprop", op, shape, outs[0][1], outputs=wanted, **epilogue)]
    if primitive == "tangent":
        pairs = [{"x": shape[a], "w": shape[b]} for a, b in (("dx", "w"), ("x", "dw")) if a in shape and b in shape]
        return [product("fprop", op, pair, op.sum_dtype) for pair in pairs]
    roles = {"dx": "dgrad", "dw": "wgrad"}
    return [product(roles[name], op, shape, dtype) for name, dtype in outs if name in roles]

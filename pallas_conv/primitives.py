"""Six primitives; every JAX transformation of a convolution with fused bias, residual and activation ends in them.

    affine   (x, w, b?, r?)                    -> y, z?               y = act(z), z = conv(x, w) + b + r
    tangent  (x?, w?, a?, dx?, dw?, db?, dr?)  -> y                   act'(a) * (conv(dx, w) + conv(x, dw) + db + dr)
    bwd      (x?, w?, a?, ct)                  -> dx?, dw?, db?, dr?  g = act'(a) * ct, contracted with w, x and 1; and g
    fprop, dgrad, wgrad                                               the bare contractions: where the sum has one term

The JVP of `affine` is one `tangent`; the transpose of that is one `bwd`, and theirs is `tangent` again. What has no fused
form (second derivatives, odd vmaps) is `Equation.formula` over the three bilinear primitives, which are closed under
differentiation and vmap. Parameters, all static: op (`equation.Op`), names (of the operands), outs (name and dtype of each
output). The names are explained in equation.py. In the rules below, an absent operand is an absent key.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad
from jax.sharding import PartitionSpec

from . import compat
from .activations import saved_by
from .equation import (
    BILINEAR,
    Equation,
    Names,
    Op,
    Outs,
    gradient_at_sum,
    per_channel,
    sum_per_channel,
    times_derivative,
)

type Arrays = dict[str, Array]

PRIMITIVES = {name: Primitive(f"conv_{name}") for name in (*BILINEAR, "affine", "tangent", "bwd")}
NAME_OF = {primitive: name for name, primitive in PRIMITIVES.items()}
_OPERAND_ORDER = ("x", "ct", "w", "b", "r", "a", "dx", "dw", "db", "dr")


# ---------------------------------------------------------------- binding


def bind(primitive: str, op: Op, v: Mapping[str, Array], outs: Iterable[tuple[str, Any]]) -> Arrays:
    names = tuple(n for n in _OPERAND_ORDER if n in v)
    outs = tuple((n, jnp.dtype(dtype)) for n, dtype in outs)
    operands = compat.match_varying_axes([v[n] for n in names])
    results = PRIMITIVES[primitive].bind(*operands, op=op, names=names, outs=outs)
    return {n: r for (n, _), r in zip(outs, results, strict=True)}


def contract(role: str, a: Array, b: Array, op: Op, dtype: Any) -> Array:
    (first, second), out = BILINEAR[role]
    return bind(role, op.linear(), {first: a, second: b}, ((out, dtype),))[out]


def tangent(op: Op, v: Mapping[str, Array], a: Array | None, t: Mapping[Any, Array], dtype: Any, like: Array) -> Array:
    """act'(a) * (conv(dx, w) + conv(x, dw) + db + dr) for the tangents in t: one equation, with the operands it needs."""
    if not {"dx", "dw"} & set(t):  # no convolution in it: left to XLA
        terms = [jnp.broadcast_to(per_channel(op, t["db"], like.ndim), like.shape)] if "db" in t else []
        terms += [t["dr"]] if "dr" in t else []
        sum_ = _sum(*[term.astype(dtype) for term in terms])
        return sum_ if a is None else times_derivative(op, a, sum_)
    if a is None and set(t) == {"dx"}:
        return contract("fprop", t["dx"], v["w"], op, dtype)
    if a is None and set(t) == {"dw"}:
        return contract("fprop", v["x"], t["dw"], op, dtype)
    op, operands = _with_saved(op, a)
    operands |= ({"w": v["w"]} if "dx" in t else {}) | ({"x": v["x"]} if "dw" in t else {}) | dict(t)
    return bind("tangent", op, operands, (("y", dtype),))["y"]


def bwd(op: Op, v: Mapping[str, Array], a: Array | None, ct: Array, outs: Iterable[tuple[str, Any]]) -> Arrays:
    """The cotangents named in outs: one equation, with only the operands it needs."""
    want = dict(outs)
    op, operands = _with_saved(op, a)
    operands["ct"] = ct
    if not {"dx", "dw"} & set(want):  # no convolution in them: left to XLA
        g = gradient_at_sum(op, operands)
        return {n: (sum_per_channel(op, g) if n == "db" else g).astype(dtype) for n, dtype in want.items()}
    if a is None and set(want) == {"dx"}:
        return {"dx": contract("dgrad", ct, v["w"], op, want["dx"])}
    if a is None and set(want) == {"dw"}:
        return {"dw": contract("wgrad", v["x"], ct, op, want["dw"])}
    operands |= ({"w": v["w"]} if "dx" in want else {}) | ({"x": v["x"]} if "dw" in want else {})
    return bind("bwd", op, operands, want.items())


def _with_saved(op: Op, a: Array | None) -> tuple[Op, Arrays]:
    return (op.linear(), {}) if a is None else (op, {"a": a})


# ---------------------------------------------------------------- eager and abstract evaluation


def _impl(primitive: Primitive) -> Callable[..., Any]:
    static = ("op", "names", "outs")
    # Two, since `_checked` runs inside a call of the first, and jit refuses to call one function inside itself.
    compiled, again = (jax.jit(lambda *v, **params: primitive.bind(*v, **params), static_argnames=static) for _ in "12")
    running = threading.local()

    def impl(*args: Array, **params: Any) -> Any:
        with jax.disable_jit(False):  # under disable_jit, bind and impl would call each other for ever
            if getattr(running, "here", False):
                return _checked(primitive, functools.partial(again, *args, **params))
            running.here = True
            try:
                return compiled(*args, **params)
            finally:
                running.here = False

    return impl


def _checked(primitive: Primitive, run: Callable[[], Any]) -> Any:
    """jit calls its function once more, to say where, when it found a NaN or an infinity that the user asked to be told of."""
    with jax.debug_nans(False), jax.debug_infs(False):
        outs = run()
    for name, asked, found in (
        ("nan", jax.config.jax_debug_nans, jnp.isnan),
        ("inf", jax.config.jax_debug_infs, jnp.isinf),
    ):
        if asked and any(bool(found(out).any()) for out in outs):
            raise FloatingPointError(f"invalid value ({name}) encountered in {primitive.name}")
    return outs


def partitions(aval: Any) -> tuple[Any, ...]:
    """The mesh axes of each axis of an array, None for those that are whole; its spec may be shorter."""
    return (*aval.sharding.spec, *[None] * aval.ndim)[: aval.ndim]


def must_replicate(op: Op, factor: str) -> bool:
    """Spatial axes, and the channels of grouped convolutions, are not split over devices."""
    return factor[0] in "pqr" or (op.spec.groups > 1 and factor in "cdo")


def _abstract(primitive: str, *avals: Any, op: Op, names: Names, outs: Outs) -> list[Any]:
    equation, shapes = Equation(primitive, op, names, outs), [a.shape for a in avals]
    operand_factors, result_factors = equation.factors(shapes)
    mesh_axes: dict[str, Any] = {}  # of each factor, on an explicit mesh
    for aval, fs, name in zip(avals, operand_factors, names, strict=True):
        if aval.sharding.mesh.empty:
            continue
        for f, axes in zip(fs, partitions(aval), strict=True):
            if axes is None:
                continue
            if must_replicate(op, f) or mesh_axes.setdefault(f, axes) != axes:
                raise TypeError(
                    f"convolution: operand {name} may not be sharded along its axis {fs.index(f)} as {aval.sharding.spec} "
                    f"asks: that axis must be whole on every device, or sharded as in the other operand; jax.reshard it first"
                )

    def result(shape: tuple[int, ...], dtype: Any, fs: list[str]) -> Any:
        changes: dict[str, Any] = {"shape": shape, "dtype": dtype, "weak_type": False}
        if not avals[0].sharding.mesh.empty:
            spec = PartitionSpec(*[mesh_axes.get(f) for f in fs])
            used = jax.tree.leaves(tuple(spec))
            if len(set(used)) < len(used):
                raise TypeError(
                    f"convolution: the result would be sharded as {spec}, two of its axes over the same mesh axis; jax.reshard "
                    f"one of the operands {', '.join(names)} first"
                )
            changes["sharding"] = avals[0].sharding.update(spec=spec)
        return avals[0].update(**changes)  # keeps the axes over which it varies

    return [
        result(s, dtype, fs)
        for s, (_, dtype), fs in zip(equation.out_shapes(shapes), outs, result_factors, strict=True)
    ]


# ---------------------------------------------------------------- differentiation

# Derivatives (JVPs) and transposes. A JVP is the sum of its terms, one for every operand that moves. x' is the tangent of x,
# [dx] the cotangent of the output dx, and g = act'(a) * ct.
#
#             moves     term of the JVP                               wanted    transpose
#   affine    x w b r   tangent of x' w' b' r', as dx dw db dr        x w b r   bwd of [y]; no act, and not in x and w at once
#   tangent   d.        tangent of d.'                                d.        bwd of [y]
#             x w       tangent: conv(x', dw) + conv(dx, w')
#             a         act'(a)' * (conv(dx, w) + conv(x, dw) + db + dr)
#   bwd       ct        bwd of ct'                                    ct        tangent of [dx] [dw] [db] [dr]
#             x w       bwd: dx = dgrad(g, w'), dw = wgrad(x', g)     x w       bwd: dgrad(g, [dw]), wgrad([dx], g)
#             a         bwd of g', with g itself in the place of act'(a) * ct
#   fprop, dgrad, wgrad: the product rule, and each other's transposes by `_BILINEAR_TRANSPOSES`
#
# d. stands for dx, dw, db and dr. An operand without an entry for its transpose is one in which the primitive is not linear.


def _nonzero(names: Iterable[str], ts: Iterable[Any]) -> dict[str, Any]:
    return {n: t for n, t in zip(names, ts, strict=True) if type(t) is not ad.Zero}


def _zero(t: Array) -> Any:
    return ad.Zero(jax.typeof(t).to_tangent_aval())


def placed_like(grad: Array, operand: Any) -> Array:
    """A cotangent with the sharding of its operand, which the types of explicit meshes ask for."""
    sharding = operand.sharding
    return grad if sharding.mesh.empty or jax.typeof(grad).sharding == sharding else jax.reshard(grad, sharding)


def _sum(*terms: Array | None) -> Array:
    present = [t for t in terms if t is not None]
    return sum(present[1:], present[0])


def _affine_jvp(primals: Any, tangents: Any, *, op: Op, names: Names, outs: Outs) -> tuple[list, list]:
    v = dict(zip(names, primals, strict=True))
    t = {f"d{n}": dot for n, dot in _nonzero(names, tangents).items()}
    dtype, saved = outs[0][1], saved_by(op.activation)
    r = bind("affine", op, v, outs if saved is None or saved in dict(outs) else (*outs, (saved, dtype)))
    if "z" not in dict(outs):
        dots = {"y": tangent(op, v, r.get(saved) if saved else None, t, dtype, r["y"])}
    else:  # a derivative of the derivative
        dz = tangent(op.linear(), v, None, t, dtype, r["z"])
        dots = {"z": dz} | ({"y": times_derivative(op, r[saved], dz) if saved else dz} if "y" in dict(outs) else {})
    return [r[n] for n, _ in outs], [dots[n] for n, _ in outs]


def _tangent_jvp(primals: Any, tangents: Any, *, op: Op, names: Names, outs: Outs) -> tuple[list, list]:
    v, t = dict(zip(names, primals, strict=True)), _nonzero(names, tangents)
    ((_, dtype),) = outs
    y = bind("tangent", op, v, outs)["y"]
    a, linear = v.get("a"), {n: v[n] for n in ("dx", "dw", "db", "dr") if n in v}
    by_linear = {n: dot for n, dot in t.items() if n in linear}
    by_primal = {f"d{n}": t[n] for n in "wx" if n in t}  # conv(dx, w.) + conv(x., dw): w and x in the role of tangents
    swapped = {n: v[f"d{n}"] for n in "xw" if f"d{n}" in v}

    def through_saved(a: Array) -> Array:
        return times_derivative(op, a, tangent(op.linear(), v, None, linear, dtype, y))

    return [y], [
        _sum(
            tangent(op, v, a, by_linear, dtype, y) if by_linear else None,
            tangent(op, swapped, a, by_primal, dtype, y) if by_primal else None,
            jax.jvp(through_saved, (a,), (t["a"],))[1] if "a" in t else None,
        )
    ]


def _bwd_jvp(primals: Any, tangents: Any, *, op: Op, names: Names, outs: Outs) -> tuple[list, list]:
    v, t = dict(zip(names, primals, strict=True)), _nonzero(names, tangents)
    r = bind("bwd", op, v, outs)
    a, ct = v.get("a"), v["ct"]
    by_gradient: Arrays = {}
    if "a" in t:  # g = act'(a) * ct moves with both
        at, dots = (a, ct), (t["a"], t.get("ct", jnp.zeros_like(ct)))
        g = jax.jvp(functools.partial(times_derivative, op), at, dots)[1]
        by_gradient = bwd(op.linear(), v, None, g, outs)
    elif "ct" in t:
        by_gradient = bwd(op, v, a, t["ct"], outs)
    moved = tuple((n, dtype) for n, dtype in outs if {"dx": "w", "dw": "x"}.get(n) in t)
    by_primal = bwd(op, t, a, ct, moved) if moved else {}
    dots_out = []
    for n, _ in outs:
        terms = (by_gradient.get(n), by_primal.get(n))
        dots_out.append(_zero(r[n]) if terms == (None, None) else _sum(*terms))
    return [r[n] for n, _ in outs], dots_out


def _bilinear_jvp(role: str, primals: Any, tangents: Any, *, op: Op, names: Names, outs: Outs) -> tuple[list, list]:
    (a, b), (dot_a, dot_b), ((_, dtype),) = primals, tangents, outs
    y = contract(role, a, b, op, dtype)
    has_a, has_b = type(dot_a) is not ad.Zero, type(dot_b) is not ad.Zero
    if role == "fprop" and has_a and has_b:  # one fused tangent, hence one fused bwd
        return [y], [tangent(op, {"x": a, "w": b}, None, {"dx": dot_a, "dw": dot_b}, dtype, y)]
    by_a = contract(role, dot_a, b, op, dtype) if has_a else None
    by_b = contract(role, a, dot_b, op, dtype) if has_b else None
    return [y], [_sum(by_a, by_b)]


def _transpose_rule(rule: Callable[[Op, Arrays, Arrays, dict[str, Any]], Arrays]) -> Callable[..., list]:
    """rule(op, known operands, nonzero cotangents, wanted operands' avals) -> cotangents by operand name."""

    def transpose(cts: Any, *args: Any, op: Op, names: Names, outs: Outs) -> list:
        v, nonzero = dict(zip(names, args, strict=True)), _nonzero([n for n, _ in outs], cts)
        want = {n: t.aval for n, t in v.items() if ad.is_undefined_primal(t)}
        known = {n: t for n, t in v.items() if n not in want}
        grads = rule(op, known, nonzero, want) if nonzero else {}
        return [placed_like(grads[n], want[n]) if n in grads else None for n in names]

    return transpose


def _not_linear(want: Iterable[str]) -> NotImplementedError:
    return NotImplementedError(f"a convolution is not jointly linear in {', '.join(want)}: it has no transpose there")


def _affine_transpose(op: Op, v: Arrays, cts: Arrays, want: dict[str, Any]) -> Arrays:
    """jax.linear_transpose by the user."""
    if op.activation is not None:
        raise NotImplementedError(f"a convolution with activation {op.activation!r} is not linear: it has no transpose")
    if {"x", "w"} <= set(want):
        raise _not_linear(want)
    grads = bwd(op, v, None, _sum(*cts.values()), tuple((f"d{n}", aval.dtype) for n, aval in want.items()))
    return {n[1:]: g for n, g in grads.items()}


def _tangent_transpose(op: Op, v: Arrays, cts: Arrays, want: dict[str, Any]) -> Arrays:
    if not set(want) <= {"dx", "dw", "db", "dr"}:
        raise _not_linear(want)
    return bwd(op, v, v.get("a"), cts["y"], tuple((n, aval.dtype) for n, aval in want.items()))


def _bwd_transpose(op: Op, v: Arrays, cts: Arrays, want: dict[str, Any]) -> Arrays:
    if set(want) == {"ct"}:
        return {"ct": tangent(op, v, v.get("a"), cts, want["ct"].dtype, want["ct"])}
    if not set(want) <= {"x", "w"}:
        raise _not_linear(want)
    # dx = dgrad(g, w), so w's cotangent is wgrad(ct of dx, g); and dw = wgrad(x, g), so x's is dgrad(g, ct of dw).
    pairs = [n for out, n in (("dx", "w"), ("dw", "x")) if out in cts and n in want]
    swapped = {n: cts[f"d{n}"] for n in "xw" if f"d{n}" in cts}
    grads = bwd(op, swapped, v.get("a"), v["ct"], tuple((f"d{n}", want[n].dtype) for n in pairs)) if pairs else {}
    return {n[1:]: g for n, g in grads.items()}


# role -> what contracts (ct, second) into the first operand's cotangent, and (first, ct) into the second's
_BILINEAR_TRANSPOSES: dict[str, tuple[Callable, Callable]] = {
    "fprop": (lambda ct, w: ("dgrad", ct, w), lambda x, ct: ("wgrad", x, ct)),
    "dgrad": (lambda ct, w: ("fprop", ct, w), lambda y, ct: ("wgrad", ct, y)),
    "wgrad": (lambda ct, y: ("dgrad", y, ct), lambda x, ct: ("fprop", x, ct)),
}


def _bilinear_transpose(role: str, cts: Any, a: Any, b: Any, *, op: Op, names: Names, outs: Outs) -> list:
    (ct,) = cts
    if type(ct) is ad.Zero:
        return [None, None]
    of_first, of_second = _BILINEAR_TRANSPOSES[role]
    if ad.is_undefined_primal(a):
        role, first, second = of_first(ct, b)
        return [placed_like(contract(role, first, second, op, a.aval.dtype), a.aval), None]
    role, first, second = of_second(a, ct)
    return [None, placed_like(contract(role, first, second, op, b.aval.dtype), b.aval)]


def _taylor(primitive: str, primals: Any, series: Any, *, op: Op, names: Names, outs: Outs) -> tuple[list, list]:
    """Leibniz's rule for the bilinear products; the rest by their formulas."""
    if primitive not in BILINEAR:
        equation = Equation(primitive, op, names, outs)
        by_definition = lambda *args: equation.formula(dict(zip(names, args, strict=True)), contract)
        return compat.taylor(by_definition, primals, series)
    (a, b), ((_, dtype),) = [[p, *terms] for p, terms in zip(primals, series, strict=True)], outs
    y, *terms = [
        _sum(*[contract(primitive, a[i], b[order - i], op, dtype) for i in range(order + 1)]) for order in range(len(a))
    ]
    return [y], [terms]


# ---------------------------------------------------------------- dead code

_NEEDED_FOR = {"dx": {"w"}, "dw": {"x"}, "db": set(), "dr": set()}


def _dce(primitive: str, used: list[bool], eqn: Any) -> tuple[list[bool], Any]:
    """Drop the outputs that nobody uses, then the operands that only they needed."""
    if not any(used):
        return [False] * len(eqn.invars), None
    outs = tuple(out for out, u in zip(eqn.params["outs"], used, strict=True) if u)

    def needed(name: str) -> bool:
        return primitive != "bwd" or name in ("ct", "a") or any(name in _NEEDED_FOR[out] for out, _ in outs)

    keep = [needed(n) for n in eqn.params["names"]]
    names = tuple(n for n, k in zip(eqn.params["names"], keep, strict=True) if k)
    return keep, eqn.replace(
        invars=[x for x, k in zip(eqn.invars, keep, strict=True) if k],
        outvars=[x for x, u in zip(eqn.outvars, used, strict=True) if u],
        params={**eqn.params, "outs": outs, "names": names},
    )


# ---------------------------------------------------------------- registration

_JVPS = {"affine": _affine_jvp, "tangent": _tangent_jvp, "bwd": _bwd_jvp}
_TRANSPOSES = {"affine": _affine_transpose, "tangent": _tangent_transpose, "bwd": _bwd_transpose}

for _name, _primitive in PRIMITIVES.items():
    _primitive.multiple_results = True
    _primitive.def_impl(_impl(_primitive))
    _primitive.def_abstract_eval(functools.partial(_abstract, _name))
    compat.register_dce(_primitive, functools.partial(_dce, _name))
    compat.check_for_nan(_primitive)
    compat.register_taylor(_primitive, functools.partial(_taylor, _name))
    if _name in BILINEAR:
        ad.primitive_jvps[_primitive] = functools.partial(_bilinear_jvp, _name)
        ad.primitive_transposes[_primitive] = functools.partial(_bilinear_transpose, _name)
    else:
        ad.primitive_jvps[_primitive] = _JVPS[_name]
        ad.primitive_transposes[_primitive] = _transpose_rule(_TRANSPOSES[_name])


def dots_saveable(primitive: Any, *args: Any, **params: Any) -> bool:
    """`jax.checkpoint_policies.dots_saveable`, which knows JAX's own primitives only, with convolutions included.

    Pass it as the `policy` of `jax.checkpoint` to keep convolutions' results instead of computing them again.
    """
    return primitive in NAME_OF or jax.checkpoint_policies.dots_saveable(primitive, *args, **params)

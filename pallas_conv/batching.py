"""vmap of the primitives: never a new grid dimension, never a second launch, where one equation can carry the axis."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.interpreters import batching

from .equation import Equation, Names, Op, Outs, kind
from .primitives import PRIMITIVES, bind, contract


def _merge_into_channels(t: Array, batch_axis: int, axis: int, groups: int) -> Array:
    """Move axis `batch_axis` (B) into the channel axis `axis`, inside each group: (g * c) -> (g * B * c)."""
    order = [i for i in range(t.ndim) if i != batch_axis]
    order.insert(axis, batch_axis)
    t = lax.transpose(t, order)
    before, (size, channels), after = t.shape[:axis], t.shape[axis : axis + 2], t.shape[axis + 2 :]
    t = t.reshape(*before, size, groups, channels // groups, *after)
    return jnp.moveaxis(t, axis, axis + 1).reshape(*before, size * channels, *after)


def _split_from_channels(t: Array, size: int, axis: int, groups: int) -> Array:
    """The inverse: B comes first."""
    before, channels, after = t.shape[:axis], t.shape[axis], t.shape[axis + 1 :]
    t = t.reshape(*before, groups, size, channels // (groups * size), *after)
    return jnp.moveaxis(t, axis + 1, 0).reshape(size, *before, channels // size, *after)


def _batch(
    primitive: str, args: Sequence[Array], axes: Sequence[int | None], *, op: Op, names: Names, outs: Outs
) -> tuple[list[Array], list[int]]:
    """The batching rule: the axis becomes one of models, else one of images, else part of the channels, else the formula's."""
    v = dict(zip(names, args, strict=True))
    axis_of = {n: a for n, a in zip(names, axes, strict=True) if a is not None}
    size = next(v[n].shape[a] for n, a in axis_of.items())
    kinds = {n: kind(n) for n in (*names, *dict(outs))}

    def batched(which: str) -> bool:
        return all(n in axis_of for n in names if kinds[n] in which)

    def unbatched(which: str) -> bool:
        return not any(n in axis_of for n in names if kinds[n] in which)

    def produces(which: str) -> bool:
        return any(kinds[n] in which for n, _ in outs)

    def in_front(name: str) -> Array:
        if name in axis_of:
            return jnp.moveaxis(v[name], axis_of[name], 0)
        return jnp.broadcast_to(v[name], (size, *v[name].shape))

    def run(op: Op, v: Mapping[str, Array]) -> list[Array]:
        return list(bind(primitive, op, v, outs).values())

    if batched("xyw") or size == 0:  # independent problems, or none, which make no channels: one more axis E
        return run(op.replace(ensemble_axes=op.ensemble_axes + 1), {n: in_front(n) for n in names}), [0] * len(outs)

    if batched("xy") and unbatched("wb") and not produces("wb"):  # shared parameters: one more axis N
        images = {n: jnp.moveaxis(t, axis_of[n], op.ensemble_axes) if n in axis_of else t for n, t in v.items()}
        return run(op, images), [op.ensemble_axes] * len(outs)

    # Models that share x (or y): the new axis becomes part of the channels of their weights, and of the other image.
    equation = Equation(primitive, op, names, outs)
    n = equation.batch_axes([t.shape[:-1] if k in axis_of else t.shape for k, t in v.items()])
    for image in "yx":
        carriers = {"y": "ywb", "x": "xw"}[image]
        moved = [k for k in names if kinds[k] in carriers]
        if not all(k in axis_of for k in moved if kinds[k] != "b"):
            continue
        if any(k in axis_of for k in names if k not in moved) or not all(kinds[k] in carriers for k, _ in outs):
            continue
        groups = op.spec.groups
        channels = {  # axis of the channels that carry B, and the groups inside them
            image: (op.ensemble_axes + n, groups),
            "b": (op.ensemble_axes, groups),
            "w": (op.ensemble_axes, groups) if image == "y" else (op.ensemble_axes + 1, 1),
        }
        merged = {k: _merge_into_channels(in_front(k), 0, *channels[kinds[k]]) if k in moved else v[k] for k in names}
        results = run(op, merged)
        split = [_split_from_channels(r, size, *channels[kinds[k]]) for r, (k, _) in zip(results, outs, strict=True)]
        return split, [0] * len(outs)

    def by_definition(*args: Array) -> list[Array]:  # mixed: each contraction is batched in its own best way
        return equation.formula(dict(zip(names, args, strict=True)), contract)

    return jax.vmap(by_definition, axes, 0)(*args), [0] * len(outs)


def register() -> None:
    for name, primitive in PRIMITIVES.items():
        rule: Any = functools.partial(_batch, name)
        batching.primitive_batchers[primitive] = rule

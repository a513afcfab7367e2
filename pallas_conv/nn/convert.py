"""Swap the convolution layers of an existing equinox model for this package's, and back. Parameters are shared, not copied."""

from typing import Any

from ..dispatch.implementation import Implementation, preferences
from .classes import CONVERTED, is_layer, new, outcome
from .equinox import EXTRAS
from .pytrees import map_children


def convert[T](model: T, to: str = "pallas_conv", implementation: Implementation | None = None) -> T:
    """The model with every convolution layer of equinox swapped for the layer of the same name in this package, or back.

    The same function of the same parameters: the leaves of the result are the very objects of `model`, in the same order, so
    checkpoints of leaves (`equinox.tree_serialise_leaves`) made for one fit the other. What repeats the model's structure,
    such as an optimiser's state, a moving average or a filter, is converted with it: `state = convert(state)`. Under
    `jax.checkpoint`, pass `pallas_conv.dots_saveable` for the policy of that name, which knows JAX's own convolutions only.

    Layers keep their place in whatever holds them: modules, containers, `equinox.nn.Shared`, `WeightNorm`, `SpectralNorm`,
    ensembles made by `equinox.filter_vmap`. An object that occurs twice is still one object that occurs twice, and what
    holds no layer is passed on as it is.

    Subclasses of equinox's layers that override nothing but the constructor are converted, too: to a class of the same name
    that derives from theirs and from this package's, so that `isinstance` holds for both, and back to theirs. They keep their
    other methods, and can be copied and pickled. Subclasses of this package's layers stay as they are.

    Left alone (`pallas_conv.convert_report` says so): subclasses that override `__call__` or what it relies on, or declare
    fields, and may compute something else; layers with an `activation` or `compute_dtype`, and subclasses of this package's
    layers, on the way to equinox, which has no counterpart. Layers outside the pytree, in a static field, the closure of a
    function, or `equinox.filter_jit(layer)`, cannot be reached: convert them before. What calls `jax.lax` itself is no layer,
    see `pallas_conv.lax`.

    **Arguments:**

    - `model`: any pytree; arrays may be `jax.ShapeDtypeStruct` or None.
    - `to`: `"pallas_conv"`, or `"equinox"` to restore the stock classes, which drops `implementation`.
    - `implementation`: a name or a tuple of names for all layers, also those converted already, see
        `pallas_conv.implementation`. None: new layers follow that context, layers converted already keep what they have.

    **Returns:** the converted model; `model` itself is not changed.

    **Raises:** `ValueError` for another `to`, for an unknown `implementation`, and for one given with `to="equinox"`.
    """
    check_direction(to)
    chosen = None if implementation is None else preferences(implementation)
    if chosen and to == "equinox":
        raise ValueError(
            f"implementation must be None for to='equinox', whose layers have none; got {implementation!r}"
        )
    done: dict[int, tuple[Any, Any]] = {}  # by id; the first entry keeps the object, hence its id, alive

    def visit(node: Any) -> Any:
        if id(node) not in done:
            done[id(node)] = (node, swapped(map_children(visit, node)))
        return done[id(node)][1]

    def swapped(node: Any) -> Any:
        if not is_layer(node):
            return node
        found = outcome(node, to)
        if found.target is not None:
            extras = dict.fromkeys(EXTRAS) | {"implementation": chosen} if to == "pallas_conv" else {}
            fields = {name: value for name, value in vars(node).items() if name not in EXTRAS}
            return new(found.target, fields | extras)
        if found.status == CONVERTED and chosen and chosen != node.implementation:
            return new(type(node), vars(node) | {"implementation": chosen})
        return node

    return visit(model)


def check_direction(to: Any) -> None:
    """Raises `ValueError` if `convert` knows no such package."""
    if not isinstance(to, str) or to not in ("pallas_conv", "equinox"):
        raise ValueError(f"to must be 'pallas_conv' or 'equinox'; got {to!r}")

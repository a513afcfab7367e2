"""The same function of (w, b, x) by this package and by stock equinox, and small arrays to call it on."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import pallas_conv as pc
from pallas_conv.activations import applied

Call = Callable[[Array, Array, Array], Array]  # (w, b, x) -> y, unbatched

LAYERS, FUNCTIONS = ("Conv2d", "ConvTranspose2d"), ("conv", "conv_transpose")
IN, OUT, MODELS, BATCH, DEPTH = 2, 4, 2, 3, 3


class Calls(NamedTuple):
    """strided: (IN, 5, 4) -> (OUT, ...) with a 3x2 kernel; same: (OUT, 5, 4) -> (OUT, 5, 4) with a 3x3 kernel."""

    strided: Call
    same: Call


@dataclasses.dataclass(frozen=True)
class Problem:
    kind: str  # of LAYERS or FUNCTIONS
    activation: str | None
    groups: int = 1

    def __str__(self) -> str:
        return f"{self.kind}-{self.activation}" + f"-groups{self.groups}" * (self.groups > 1)

    @property
    def geometries(self) -> dict[str, dict[str, Any]]:
        transposed = {"output_padding": (1, 0)} if "ranspose" in self.kind else {}
        strided = {"stride": (2, 1), "padding": ((1, 0), (1, 2)), "dilation": (1, 2), "groups": self.groups}
        return {"strided": strided | transposed, "same": {"padding": 1, "groups": self.groups}}

    @property
    def ours(self) -> Calls:
        return Calls(**{name: self._ours(geometry) for name, geometry in self.geometries.items()})

    @property
    def stock(self) -> Calls:
        return Calls(**{name: self._stock(geometry) for name, geometry in self.geometries.items()})

    def _ours(self, geometry: dict[str, Any]) -> Call:
        if self.kind in FUNCTIONS:
            f = getattr(pc, self.kind)
            return lambda w, b, x: f(x, w, b, activation=self.activation, **geometry)
        return lambda w, b, x: layer(getattr(pc, self.kind), w, b, activation=self.activation, **geometry)(x)

    def _stock(self, geometry: dict[str, Any]) -> Call:
        stock = {"conv": eqx.nn.Conv2d, "conv_transpose": eqx.nn.ConvTranspose2d}
        cls = stock.get(self.kind) or getattr(eqx.nn, self.kind)
        return lambda w, b, x: applied(self.activation, layer(cls, w, b, **geometry)(x))


MAIN = [Problem("Conv2d", "silu"), Problem("ConvTranspose2d", "relu"), Problem("conv", "silu")]
REST = [
    p for kind in (*LAYERS, *FUNCTIONS) for act in (None, "silu", "relu") for groups in (1, 2)
    if (p := Problem(kind, act, groups)) not in MAIN
]  # fmt: skip


def layer(cls: Any, w: Array, b: Array, **settings: Any) -> Any:
    """A layer with these parameters."""
    channels = (w.shape[1] * settings.get("groups", 1), w.shape[0])
    made = cls(*channels, w.shape[2:], dtype=w.dtype, key=jax.random.key(0), **settings)
    return eqx.tree_at(lambda m: (m.weight, m.bias), made, (w, b.reshape(made.bias.shape)))


class Data(NamedTuple):
    """One of each; with an s, MODELS or DEPTH of them."""

    w: Array
    b: Array
    x: Array  # batched
    ws: Array
    bs: Array
    xs: Array
    u: Array  # of the same-size layer
    us: Array
    cs: Array
    h: Array  # its input
    ct: Array  # of the strided layer's batched result
    cts: Array


def data(problem: Problem, dtype: Any) -> Data:
    rng = np.random.default_rng(0)
    w, u = (OUT, IN // problem.groups, 3, 2), (OUT, OUT // problem.groups, 3, 3)
    x, h = (BATCH, IN, 5, 4), (BATCH, OUT, 5, 4)
    y = jax.eval_shape(
        jax.vmap(problem.stock.strided, (None, None, 0)), *map(jax.ShapeDtypeStruct, (w, (OUT,), x), 3 * [dtype])
    )
    shapes = {
        "w": w, "b": (OUT,), "x": x, "ws": (MODELS, *w), "bs": (MODELS, OUT), "xs": (MODELS, *x),
        "u": u, "us": (DEPTH, *u), "cs": (DEPTH, OUT), "h": h, "ct": y.shape, "cts": (MODELS, *y.shape),
    }  # fmt: skip
    return Data(**{name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()})


def assert_close(found: Any, expected: Any, roundings: float = 1e4) -> None:
    """Leaf by leaf, within so many roundings of the largest entry."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        bound = roundings * float(jnp.finfo(b.dtype).eps) * (1 + np.abs(b).max(initial=0))
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=bound)

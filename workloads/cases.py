"""The suite: convolution layers of published networks, as data that benchmarks and tests share. Imports no kernel.

Directions: "f" the layer with its epilogue, "d" its input gradient, "w" its weight gradient, "b" all gradients at once, each
one product for which a kernel can be asked, and "fb" a whole training step (forward and every gradient). Arrays are channels
first, as in equinox.
"""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from pallas_conv.activations import ACTIVATIONS, applied
from pallas_conv.spec import ConvSpec, Product

SUITE = pathlib.Path(__file__).with_name("suite.json")
OPERANDS = {"f": "xwb", "d": "yw", "w": "xy", "b": "xywa", "fb": "xwby"}
ROLES = {"f": "fprop", "d": "dgrad", "w": "wgrad"}
FEW = 16  # channels of a group: of fewer, kernels may compute all gradients at once
MODES = {"CIRCULAR": "wrap", "REFLECT": "reflect", "REPLICATE": "edge"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer at given sizes; every tuple has one entry a spatial dimension.

    op            "conv" or "conv_transpose", with the arguments of the equinox layer
    directions    which of "f", "d", "w" matter for it (nobody needs the input gradient of a stem)
    epilogue      None, "bias", or "bias+" the name of an activation
    per_example   batch is a vmapped axis: one weight gradient per example
    """

    name: str
    op: str
    batch: int
    in_channels: int
    out_channels: int
    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    output_padding: tuple[int, ...] = ()
    padding_mode: str = "ZEROS"
    dtype: str = "bfloat16"
    directions: str = "fdw"
    epilogue: str | None = "bias"
    network: str = ""
    per_example: bool = False

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        row = {"name": row["id"], "per_example": row["id"].startswith("per_example")} | row
        row["output_padding"] = [row["output_padding"]] * len(row["spatial"])
        fields = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: _frozen(v) for k, v in row.items() if k in fields})

    @property
    def ndim(self) -> int:
        return len(self.spatial)

    @property
    def transposed(self) -> bool:
        return self.op == "conv_transpose"

    @property
    def activation(self) -> str | None:
        return self.epilogue.partition("+")[2] or None if self.epilogue else None

    @property
    def border(self) -> list[tuple[int, int]]:
        """Padding that surrounds x before a VALID convolution, for the modes that do not pad with zeros."""
        return [(0, 0)] * (2 + self.ndim) if self.padding_mode == "ZEROS" else [(0, 0), (0, 0), *self.padding]

    @functools.cached_property
    def spec(self) -> ConvSpec:
        """Geometry of the product: of the padded input where the padding is not zeros."""
        one, d = (1,) * self.ndim, self.dilation
        padding, spatial = self.padding, self.spatial
        if self.padding_mode != "ZEROS":
            assert not self.transposed, f"{self.name}: a transposed convolution with {self.padding_mode=}"
            spatial = tuple(n + sum(p) for n, p in zip(spatial, padding, strict=True))
            padding = ((0, 0),) * self.ndim
        if self.transposed:
            span = [j * (k - 1) for j, k in zip(d, self.kernel_size, strict=True)]
            extra = self.output_padding or (0,) * self.ndim
            padding = tuple((s - lo, s - hi + a) for s, (lo, hi), a in zip(span, padding, extra, strict=True))
        strides, up = (one, self.stride) if self.transposed else (self.stride, one)
        return ConvSpec(strides, padding, up, d, self.groups, spatial, self.kernel_size)

    @property
    def out_spatial(self) -> tuple[int, ...]:
        return self.spec.out_spatial

    def products(self) -> dict[str, Product]:
        """The product of each direction, as a kernel is asked for it."""
        batch, models = (1, self.batch) if self.per_example else (self.batch, None)
        sizes = batch, self.in_channels, self.out_channels
        products = {
            d: Product(ROLES[d], self.spec, *sizes, self.dtype, self.dtype, models=models) for d in self.directions
        }
        if "f" in products:
            fused = {"bias": self.epilogue is not None, "activation": self.activation}
            products["f"] = dataclasses.replace(products["f"], **fused)
        if self.at_once:
            wanted = {"outputs": ("dx", "dw", "db") if self.epilogue else ("dx", "dw"), "activation": self.activation}
            products["b"] = dataclasses.replace(products["w"], role="bwd", **wanted)
        return products

    @property
    def at_once(self) -> bool:
        """Whether all gradients may be one product, "b"."""
        few = self.groups > 1 and max(self.in_channels, self.out_channels) < FEW * self.groups
        return few and {"d", "w"} <= set(self.directions) and self.padding_mode == "ZEROS" and not self.per_example

    # ------------------------------------------------------------ work and traffic

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "x": (self.batch, self.in_channels, *self.spatial),
            "w": (self.out_channels, self.in_channels // self.groups, *self.kernel_size),
            "b": (self.out_channels,),
            "y": (self.batch, self.out_channels, *self.out_spatial),
            "a": (self.batch, self.out_channels, *self.out_spatial),
        }

    def flops(self, direction: str = "f") -> int:
        """Useful ones: two a tap, input channel and output element (of a transposed convolution: input element)."""
        positions = math.prod(self.spatial if self.transposed else self.out_spatial)
        taps = math.prod(self.kernel_size) * self.in_channels // self.groups
        once = 2 * self.batch * positions * taps * self.out_channels
        return once * {"fb": len(self.directions), "b": 2}.get(direction, 1)

    def nbytes(self, direction: str = "f") -> int:
        """The least memory traffic: each operand read once, each result written once. Biases are not counted."""
        size = {k: math.prod(s) * jnp.dtype(self.dtype).itemsize for k, s in self.shapes().items()}
        if self.per_example and direction == "w":
            size["w"] *= self.batch
        once = size["x"] + size["w"] + size["y"]
        if direction == "b":
            return once + size["x"] + size["w"] + (size["a"] if self.activation else 0)
        return once + (size["y"] + size["w"] + size["x"] * ("d" in self.directions) if direction == "fb" else 0)

    # ------------------------------------------------------------ programs and data

    def layer(self) -> eqx.Module:
        """The stock equinox layer, its parameters as shapes only."""
        kind: Any = eqx.nn.ConvTranspose if self.transposed else eqx.nn.Conv
        extra = {"output_padding": self.output_padding or 0} if self.transposed else {}
        return eqx.filter_eval_shape(
            lambda key: kind(
                self.ndim, self.in_channels, self.out_channels, self.kernel_size, stride=self.stride,
                padding=self.padding, dilation=self.dilation, groups=self.groups, use_bias=self.epilogue is not None,
                padding_mode=self.padding_mode, dtype=jnp.dtype(self.dtype), key=key, **extra,
            ),
            jax.random.key(0),
        )  # fmt: skip

    def stock(self, direction: str, convert: Callable[[Any], Any] = lambda layer: layer) -> Callable[..., Any]:
        """The function that a user of equinox runs today: vmap of the layer, converted if at all, and its jax.vjp.

        f(x, w, b) -> y, d(dy, w) -> dx, w(x, dy) -> dw, b(x, dy, w, a) -> dx, dw and db if there is a bias,
        fb(x, w, b, dy) -> y, (dw, db) or (dx, dw, db).
        """
        layer, act, shapes = convert(self.layer()), functools.partial(applied, self.activation), self.shapes()

        def linear(x, w, b=None):
            params = (w,) if layer.bias is None else (w, b.reshape(-1, *[1] * self.ndim))
            leaves = (lambda m: (m.weight,)) if layer.bias is None else (lambda m: (m.weight, m.bias))
            return jax.vmap(eqx.tree_at(leaves, layer, params))(x)

        def by_x(dy, w):
            zero = jnp.zeros(shapes["x"], dy.dtype)
            b = jnp.zeros(shapes["b"], dy.dtype)
            return jax.vjp(lambda x: linear(x, w, b), zero)[1](dy)[0]

        def by_w(x, dy):
            zero = jnp.zeros(shapes["w"], x.dtype)
            b = jnp.zeros(shapes["b"], x.dtype)
            return jax.vjp(lambda w: linear(x, w, b), zero)[1](dy)[0]

        def all_gradients(x, dy, w, a):
            if self.activation:
                dy = dy * ACTIVATIONS[self.activation].derivative(a)
            found = jax.vjp(linear, x, w, jnp.zeros(shapes["b"], x.dtype))[1](dy)
            return found if self.epilogue else found[:2]

        def step(x, w, b, dy):
            if "d" in self.directions:
                y, pullback = jax.vjp(lambda *args: act(linear(*args)), x, w, b)
            else:
                y, pullback = jax.vjp(lambda w, b: act(linear(x, w, b)), w, b)
            return y, pullback(dy)

        if self.per_example:
            return {"w": jax.vmap(lambda x, dy: by_w(x[None], dy[None]))}[direction]
        return {"f": lambda x, w, b: act(linear(x, w, b)), "d": by_x, "w": by_w, "b": all_gradients, "fb": step}[
            direction
        ]

    def ours(self, direction: str, launch: Callable[..., Any]) -> Callable[..., Any]:
        """The same function of the same operands with `launch(product, *operands) -> results` for the product."""
        product = self.products()[direction]

        def extend(x):
            return jnp.pad(x, self.border, MODES[self.padding_mode]) if any(map(any, self.border)) else x

        def run(*operands):
            by_name = dict(zip(OPERANDS[direction], operands, strict=True))
            if "x" in by_name:
                by_name["x"] = extend(by_name["x"])
            out, *others = launch(product, *self.as_product(direction, by_name.values()))
            if direction == "d" and any(map(any, self.border)):
                (out,) = jax.linear_transpose(extend, jax.ShapeDtypeStruct(self.shapes()["x"], out.dtype))(out)
            return (out, *others) if others else out

        return run

    def as_product(self, direction: str, operands: Iterable[Any]) -> list[Any]:
        """The operands of a direction as its product has them: without a bias that is not there, each example a model."""
        there = itertools.islice(operands, len(self.products()[direction].operands))
        return [a[:, None] if self.per_example else a for a in there]

    def arrays(self, direction: str, seed: int = 0) -> tuple[jax.Array, ...]:
        """Fresh normal operands of a direction; results are of order one."""
        fan = {"f": self.flops(), "fb": self.flops(), "d": self.flops(), "b": self.flops(), "w": 0}[direction]
        scale = math.sqrt(2 * math.prod(self.shapes()["y"]) / fan) if fan else 1.0
        shapes = [(name, self.shapes()[name]) for name in OPERANDS[direction]]
        return _normal(seed, tuple((s, scale if n == "w" else 1.0) for n, s in shapes), self.dtype)

    def on_cpu(self) -> Self | None:
        """The same layer at a size a CPU can run, if the suite names one."""
        change = _rows()[self.name].get("cpu")
        return change and dataclasses.replace(self, **{k: _frozen(v) for k, v in change.items()})


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(seed, shapes, dtype):
    keys = jax.random.split(jax.random.key(seed, impl="rbg"), len(shapes))
    draw = lambda key, shape, scale: (jax.random.normal(key, shape, "float32") * np.float32(scale)).astype(dtype)
    return tuple(draw(key, *s) for key, s in zip(keys, shapes, strict=True))


def _frozen(value):
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@functools.cache
def _rows() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads(SUITE.read_text())["cases"]}


def suite() -> tuple[Case, ...]:
    return tuple(map(Case.from_json, _rows().values()))

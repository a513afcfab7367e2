"""Random geometries: the three products, their derivatives and their vmaps against lax and its own derivatives, in float64."""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pallas_conv import functional
from pallas_conv.activations import applied
from pallas_conv.equation import Op
from pallas_conv.primitives import bwd, contract
from pallas_conv.spec import ConvSpec
from tests.transforms.problems import assert_close


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A geometry with its sizes, and which operands carry which axes of a vmap."""

    op: Op
    batch: int
    channels: tuple[int, int]
    mapped: tuple[tuple[int | None, ...], ...]  # for each vmap, inside out: the axis of x, w, b and ct, or None
    seed: int

    @property
    def shapes(self):
        (c, o), spec = self.channels, self.op.spec
        x, y = (self.batch, c, *spec.in_spatial), (self.batch, o, *spec.out_spatial)
        return [x, (o, c // spec.groups, *spec.kernel_spatial), (o,), y]

    def operands(self):
        """The operands of all vmaps together. Each adds its axis to the operands that it maps."""
        rng = np.random.default_rng(self.seed)
        shapes = [list(s) for s in self.shapes]
        for axes in self.mapped:
            for shape, axis in zip(shapes, axes, strict=True):
                if axis is not None:
                    shape.insert(axis, 2)
        return [jnp.asarray(rng.standard_normal(s)) for s in shapes]


def drawn(seed: int) -> Drawn:
    rng = random.Random(seed)
    ndim = rng.choice((1, 1, 2, 2, 2, 3))
    each = lambda f: tuple(f() for _ in range(ndim))
    groups = rng.choice((1, 1, 1, 2, 3))
    spec = ConvSpec(
        strides=each(lambda: rng.choice((1, 1, 2, 3))),
        padding=each(lambda: (rng.randint(-2, 3), rng.randint(-2, 3))),
        input_dilation=each(lambda: rng.choice((1, 1, 1, 2, 3))),
        kernel_dilation=each(lambda: rng.choice((1, 1, 2, 3))),
        groups=groups,
        in_spatial=each(lambda: rng.choice((1, 1, 2, 3, 5, 6))),
        kernel_spatial=each(lambda: rng.randint(1, 3)),
    )
    # A crop wider than the image is an error of the caller's.
    padded = lambda i: (spec.in_spatial[i] - 1) * spec.input_dilation[i] + 1 + sum(spec.padding[i])
    if any(padded(i) < 0 or min(spec.padding[i]) < -spec.in_spatial[i] for i in range(ndim)):
        return drawn(seed + 1_000_000)
    mapped = []
    for level in range(rng.choice((1, 1, 2))):
        axes = tuple(rng.randint(0, 1 + level) if rng.random() < 0.5 else None for _ in range(4))
        mapped += [axes] if any(a is not None for a in axes[:3]) else []
    mapped = [tuple(0 if i == 2 and a is not None else a for i, a in enumerate(axes)) for axes in mapped]
    channels = groups * rng.randint(1, 2), groups * rng.randint(1, 3)
    f64 = np.dtype(np.float64)
    op = Op(spec, f64, f64, activation=rng.choice((None, "silu", "relu")))
    return Drawn(op, rng.choice((0, 1, 2, 2, 3)), channels, tuple(mapped), seed)


def lax_conv(d, x, w):
    """Dilated, padded and cropped by lax.pad: XLA's CPU convolution misreads some crops."""
    s = d.op.spec
    sides = [(*p, i - 1) for p, i in zip(s.padding, s.input_dilation, strict=True)]
    x = lax.pad(x, jnp.float64(0), [(0, 0, 0), (0, 0, 0), *sides])
    how = {"rhs_dilation": s.kernel_dilation, "feature_group_count": s.groups}
    return lax.conv_general_dilated(x, w, s.strides, [(0, 0)] * s.ndim, **how)


def products(d):
    """(x, w, ct) -> y, dx, dw, ours and lax's."""
    f64 = jnp.float64

    def ours(x, w, ct):
        return (
            contract("fprop", x, w, d.op, f64),
            contract("dgrad", ct, w, d.op, f64),
            contract("wgrad", x, ct, d.op, f64),
        )

    def theirs(x, w, ct):
        y, pull = jax.vjp(lambda x, w: lax_conv(d, x, w), x, w)
        return y, *pull(ct)

    return ours, theirs


def layers(d):
    """(x, w, b, ct) -> value, gradients, gradients of those: of a whole fused layer, mapped as drawn."""

    def ours(x, w, b):
        return functional.apply(x, w, b, None, d.op, jnp.dtype("float64"))

    def theirs(x, w, b):
        return applied(d.op.activation, lax_conv(d, x, w) + b.reshape(1, -1, *[1] * d.op.spec.ndim))

    def derivatives(f):
        def pulled(x, w, b, ct):
            y, pull = jax.vjp(f, x, w, b)
            return y, pull(ct), jax.vjp(lambda *at: jax.vjp(f, *at)[1](ct), x, w, b)[1](pull(jnp.cos(ct)))

        for axes in d.mapped:
            pulled = jax.vmap(pulled, axes)
        return pulled

    return derivatives(ours), derivatives(theirs)


def assert_agree(ours, theirs, *args):
    found, expected = jax.jit(lambda *args: (ours(*args), theirs(*args)))(*args)
    assert_close(found, expected)


SEEDS = [pytest.param(seed, marks=[] if seed < 10 else pytest.mark.extended) for seed in range(200)]


@pytest.mark.parametrize("seed", SEEDS)
def test_products_and_layers(seed):
    with jax.enable_x64(True):
        d = drawn(seed)
        x, w, _, ct = dataclasses.replace(d, mapped=()).operands()
        assert_agree(*products(d), x, w, ct)
        assert_agree(*layers(d), *d.operands())


def test_what_is_drawn():
    """Each hard corner is among them."""
    sample = [drawn(seed) for seed in range(200)]
    corners = {
        "empty result": lambda d: 0 in d.op.spec.out_spatial,
        "no images": lambda d: d.batch == 0,
        "crop": lambda d: min(min(p) for p in d.op.spec.padding) < 0,
        "strided and dilated input": lambda d: max(d.op.spec.strides) > 1 and max(d.op.spec.input_dilation) > 1,
        "groups under vmap of w": lambda d: d.op.spec.groups > 1 and any(axes[1] is not None for axes in d.mapped),
        "one pixel": lambda d: set(d.op.spec.in_spatial) == {1},
        "two vmaps": lambda d: len(d.mapped) == 2,
    }
    assert {name for name, corner in corners.items() if not any(map(corner, sample))} == set()


@pytest.mark.parametrize("wanted", ["dx", "dw", "db", "dx dw", "dx db", "dw db", "dx dw db"])
@pytest.mark.parametrize("batched", ["x", "w", "a", "ct", "x w", "x a ct", "w a ct", "x w a ct"])
def test_vmap_of_bwd(batched, wanted):
    """One call with any subset of operands, and any subset of outputs, gives the same as one call after the other."""
    with jax.enable_x64(True):
        d = dataclasses.replace(
            drawn(0), op=Op(SMALL, *2 * [np.dtype(np.float64)], "silu"), batch=2, channels=(4, 6), mapped=()
        )
        x, w, _, ct = d.operands()
        v = {"x": x, "w": w, "a": jnp.cos(ct), "ct": ct}
        outs = tuple((n, jnp.float64) for n in wanted.split())
        stacked = {n: jnp.stack([t, 2 * t, t**2]) if n in batched.split() else t for n, t in v.items()}
        call = lambda v: bwd(d.op, v, v["a"], v["ct"], outs)
        axes = {n: 0 if n in batched.split() else None for n in v}
        found = jax.jit(jax.vmap(call, (axes,), axis_size=3))(stacked)
        each = [call({n: t[i] if n in batched.split() else t for n, t in stacked.items()}) for i in range(3)]
        assert_close(found, jax.tree.map(lambda *ts: jnp.stack(ts), *each))


SMALL = ConvSpec((2, 1), ((1, 0), (-1, 2)), (1, 2), (1, 1), 2, (5, 4), (3, 2))

"""Launches that a transformed layer costs: its equations, and the kernels of a program compiled for an H100."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax import lax

import pallas_conv as pc
from compiled import aot
from tests.transforms import programs, standin
from tests.transforms.problems import layer

N, C, O, S, E, DEPTH = 32, 16, 24, 14, 7, 3  # noqa: E741
SHAPES = {
    "x": (N, C, S, S), "w": (O, C, 3, 3), "b": (O,), "x2": (N, O, S, S), "w2": (O, O, 3, 3), "xs": (5, N, C, S, S),
    "we": (E, O, C, 3, 3), "be": (E, O), "xe": (E, N, C, S, S), "w2e": (E, O, O, 3, 3), "bn": (N, O), "ct": (5, N, O, S, S),
    "wd": (DEPTH, O, O, 3, 3), "bd": (DEPTH, O),
}  # fmt: skip


def u(x, w, b, activation="silu"):
    """A layer on one image."""
    if b is None:
        made = pc.Conv2d(
            w.shape[1], w.shape[0], 3, padding=1, use_bias=False, activation=activation, key=jax.random.key(0)
        )
        return eqx.tree_at(lambda m: m.weight, made, w)(x)
    return layer(pc.Conv2d, w, b, padding=1, activation=activation)(x)


def relu(x, w, b):
    return u(x, w, b, "relu")


def linear(x, w, b=None):
    return u(x, w, b, None)


def batched(call):
    return lambda x, w, b: jax.vmap(lambda x: call(x, w, b))(x)


v = batched(u)


def function(x, w, b):
    return pc.conv(x, w, b, padding=1, activation="silu")


def total(y):
    return jnp.sum(jnp.sin(y))


def of(call, argnums):
    """The gradient of a batched layer."""
    return jax.grad(lambda *at: total(call(*at)), argnums)


def two_layers(call):
    return lambda x, w, b, w2, b2: jax.grad(lambda p: total(call(call(x, p[0], p[1]), p[2], p[3])))((w, b, w2, b2))


def two_linear_layers(x, w, w2):
    net = lambda p: jax.vmap(lambda x: linear(linear(x, p[0]), p[1]))(x)
    return jax.grad(lambda p: total(net(p)))((w, w2))


def checkpointed(call, policy=None):
    return two_layers(jax.checkpoint(batched(call), policy=policy))


def scan_over_layers(x, w, b):
    return jax.grad(lambda p: total(lax.scan(lambda h, p: (v(h, *p), None), x, p)[0]))((w, b))


def scan_over_data(xs, w, b):
    return jax.grad(lambda w: lax.scan(lambda s, x: (s + total(v(x, w, b)), None), 0.0, xs)[0])(w)


def hvp(call):
    return lambda x, w, b: jax.jvp(lambda *p: of(call, (1, 2))(x, *p), (w, b), (w, b))[1]


def gradient_penalty(x, w, b):
    norm = lambda x, w: jnp.sum(jax.grad(lambda x: total(u(x, w, b)))(x) ** 2)
    return jax.grad(lambda w: jnp.sum(jax.vmap(lambda x: norm(x, w))(x)))(w)


def jvp(argnums):
    def push(*at):
        one = lambda *ts: v(*[ts[argnums.index(i)] if i in argnums else t for i, t in enumerate(at)])
        some = tuple(at[i] for i in argnums)
        return jax.jvp(one, some, some)

    return push


class Row(NamedTuple):
    f: Callable[..., Any]
    operands: str  # names of SHAPES
    equations: dict[str, int]
    results: tuple[tuple[str, tuple[str, ...]], ...] = ()  # of some launches
    passes: int | None = None  # of anything else, at most
    compiled_by_default: bool = False


def f32(*shape):
    return f"f32[{','.join(map(str, shape))}]"


FORWARD, TRAIN, ALL = {"affine y": 1}, {"affine y z": 1, "bwd dw db": 1}, {"affine y z": 1, "bwd dx dw db": 1}
AGAIN = {"affine y": 2, "affine z": 2, "bwd dw db": 1, "bwd dx dw db": 1}  # recomputed: what the derivative reads, only
STEP = {"affine y z": 2, "bwd dw db": 1, "bwd dx dw db": 1}
per_example = lambda argnums: lambda x, w, b: jax.vmap(lambda x: of(u, argnums)(x, w, b))(x)
step = two_layers(v)

ROWS = {
    "forward": Row(v, "x w b", FORWARD, (("affine_y", (f32(N, O, S, S),)),), 0, True),
    "forward without bias": Row(lambda x, w: jax.vmap(lambda x: linear(x, w))(x), "x w", {"fprop": 1}),
    "grad(w, b)": Row(of(v, (1, 2)), "x w b", TRAIN, (("bwd_dw_db", (f32(O, C, 3, 3), f32(O))),), compiled_by_default=True),
    "grad(x, w, b)": Row(of(v, (0, 1, 2)), "x w b", ALL),
    "grad(x, w, b), relu": Row(
        of(batched(relu), (0, 1, 2)), "x w b", {"affine y": 1, "bwd dx dw db": 1}, compiled_by_default=True
    ),
    "grad(b), frozen w": Row(of(v, 2), "x w b", {"affine y z": 1}),
    "grad(x), frozen w and b": Row(of(v, 0), "x w b", {"affine y z": 1, "bwd dx": 1}),
    "only dw of grad(x, w, b)": Row(lambda *at: of(v, (0, 1, 2))(*at)[1], "x w b", {"affine y z": 1, "bwd dw": 1}),
    "conv: forward": Row(function, "x w b", FORWARD, passes=0),
    "conv: grad(w, b)": Row(of(function, (1, 2)), "x w b", TRAIN, compiled_by_default=True),
    "conv under vmap: grad(w, b)": Row(of(batched(function), (1, 2)), "x w b", TRAIN),
    "training step of two layers": Row(step, "x w b w2 b", STEP, compiled_by_default=True),
    "training step of two convs": Row(two_layers(function), "x w b w2 b", STEP),
    "training step of two linear layers": Row(two_linear_layers, "x w w2", {"fprop": 2, "wgrad": 1, "bwd dx dw": 1}),
    "nested vmap of x": Row(lambda x, w, b: jax.vmap(lambda x: v(x, w, b))(x), "xs w b", FORWARD, passes=0),
    "models sharing x": Row(
        lambda x, w, b: jax.vmap(lambda w, b: v(x, w, b))(w, b), "x we be", FORWARD, (("affine_y", (f32(N, E * O, S, S),)),)
    ),
    "models sharing x and b": Row(lambda x, w, b: jax.vmap(lambda w: v(x, w, b))(w), "x we b", FORWARD),
    "vmap of b": Row(lambda x, w, b: jax.vmap(lambda b: v(x, w, b))(b), "x w be", {"fprop": 1}),
    "per-example bias": Row(lambda x, w, b: jax.vmap(lambda x, b: u(x, w, b))(x, b), "x w bn", {"fprop": 1}),
    "its gradient": Row(
        of(lambda x, w, b: jax.vmap(lambda x, b: u(x, w, b))(x, b), (0, 1, 2)), "x w bn",
        {"fprop": 1, "bwd dx dw": 1},
    ),
    "ensemble": Row(jax.vmap(v), "xe we be", FORWARD, (("affine_y", (f32(E, N, O, S, S),)),), compiled_by_default=True),
    "ensemble sharing x: grad(w, b)": Row(
        lambda x, w, b: jax.grad(lambda w, b: total(jax.vmap(lambda w, b: v(x, w, b))(w, b)), (0, 1))(w, b),
        "x we be", TRAIN,
    ),
    "ensemble training step sharing x": Row(
        lambda x, *p: jax.vmap(lambda *p: step(x, *p))(*p), "x we be w2e be", STEP, compiled_by_default=True
    ),
    "per-example gradients": Row(
        per_example((1, 2)), "x w b", TRAIN, (("bwd_dw_db", (f32(N, O, C, 3, 3), f32(N, O))),), compiled_by_default=True
    ),
    "per-example gradients of all": Row(
        per_example((0, 1, 2)), "x w b", {"affine y z": 1, "dgrad": 1, "wgrad": 1}
    ),
    "jvp of all": Row(jvp((0, 1, 2)), "x w b", {"affine y z": 1, "tangent": 1}, compiled_by_default=True),
    "jvp of x": Row(jvp((0,)), "x w b", {"affine y z": 1, "tangent": 1}),
    "rows of jacrev": Row(
        lambda x, w, b, ct: jax.vmap(jax.vjp(lambda w, b: v(x, w, b), w, b)[1])(ct), "x w b ct", {"affine z": 1, "wgrad": 1}
    ),
    "hvp(w, b)": Row(hvp(v), "x w b", {"affine y z": 1, "tangent": 1, "bwd dw db": 1}),
    "hvp(w, b), linear": Row(
        hvp(batched(linear)), "x w b", {"affine y": 1, "tangent": 1, "bwd dw db": 1}
    ),
    "gradient penalty": Row(gradient_penalty, "x w b", {"affine y z": 1, "bwd dx": 1, "fprop": 1, "bwd dw": 1, "wgrad": 1}),
    "two checkpointed layers": Row(checkpointed(u), "x w b w2 b", AGAIN),
    "two checkpointed layers, JAX's policy": Row(checkpointed(u, jax.checkpoint_policies.dots_saveable), "x w b w2 b", AGAIN),
    "two checkpointed layers, our policy": Row(checkpointed(u, pc.dots_saveable), "x w b w2 b", STEP),
    "two checkpointed relu layers": Row(checkpointed(relu), "x w b w2 b", {"affine y": 4, "bwd dw db": 1, "bwd dx dw db": 1}),
    "scan over layers": Row(scan_over_layers, "x2 wd bd", ALL, compiled_by_default=True),
    "scan over data": Row(scan_over_data, "xs w b", {"affine y z": 1, "bwd dw": 1}),
}  # fmt: skip


def structs(row: Row) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(SHAPES[{"b2": "b"}.get(name, name)], jnp.float32) for name in row.operands.split()]


@pytest.mark.parametrize("name", ROWS)
def test_equations(name):
    row = ROWS[name]
    assert programs.equations(row.f, *structs(row)) == row.equations


COMPILED = [
    pytest.param(name, marks=[] if row.compiled_by_default else pytest.mark.extended) for name, row in ROWS.items()
]


@pytest.mark.aot
@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name, monkeypatch):
    """The programs are compiled with a stand-in for each kernel."""
    standin.serve_everything(monkeypatch)
    row = ROWS[name]
    compiled = aot.compile_for("h100", row.f, *structs(row))
    assert programs.launches(compiled, standin.PREFIX) == {k.replace(" ", "_"): n for k, n in row.equations.items()}
    assert set(row.results) <= set(programs.results(compiled, standin.PREFIX))
    if row.passes is not None:
        assert len(programs.other_passes(compiled)) <= row.passes

"""Eight devices against one, where this package divides the work: lax programs inside its own partitioning, in float32."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import pallas_conv as pc
from pallas_conv import formulations
from pallas_conv.lowering import partitioning
from tests.transforms import standin
from tests.transforms.problems import assert_close, layer

AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


class Setting(NamedTuple):
    kind: str  # "Conv2d" or "ConvTranspose2d"
    activation: str | None
    groups: int = 1

    def __str__(self):
        return f"{self.kind}-{self.activation}" + f"-groups{self.groups}" * (self.groups > 1)

    def operands(self):
        rng = np.random.default_rng(0)
        shapes = {"x": (8, 8, 10, 8), "w": (16, 8 // self.groups, 3, 3), "b": (16,)}
        shapes |= {"xe": (4, *shapes["x"]), "we": (4, *shapes["w"]), "be": (4, 16)}
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}

    def layer(self, x, w, b):
        cls = getattr(pc, self.kind)
        settings = {"stride": (2, 1), "padding": ((1, 1), (0, 2)), "groups": self.groups, "activation": self.activation}
        return layer(cls, w, b, **settings)(x)

    def images(self, x, w, b):
        return jax.vmap(lambda x: self.layer(x, w, b))(x)

    def function(self, x, w, b):
        f = {"Conv2d": pc.conv, "ConvTranspose2d": pc.conv_transpose}[self.kind]
        settings = {"stride": (2, 1), "padding": ((1, 1), (0, 2)), "groups": self.groups, "activation": self.activation}
        return f(x, w, b, **settings)

    def loss(self, x, w, b):
        return jnp.sum(jnp.sin(self.images(x, w, b)))


class Case(NamedTuple):
    f: Callable[..., Any]  # of a Setting, then x, w, b
    x: P = P()
    w: P = P()
    b: P = P()
    names: str = "x w b"
    only: str = "auto explicit"


def gradient(s, *at):
    return jax.grad(s.loss, (0, 1, 2))(*at)


def function_gradient(s, *at):
    return jax.grad(lambda *at: jnp.sum(jnp.sin(s.function(*at))), (0, 1, 2))(*at)


def hvp(s, *at):
    return jax.jvp(lambda *at: gradient(s, *at), at, at)[1]


def push(s, *at):
    return jax.jvp(s.images, at, at)


def push_bias(s, x, w, b):
    return jax.jvp(lambda b: s.images(x, w, b), (b,), (b,))


def per_example(s, x, w, b):
    return jax.vmap(lambda x: jax.grad(s.loss, (1, 2))(x[None], w, b))(x)


def ensemble(s, *at):
    return jax.grad(lambda *at: jnp.sum(jax.vmap(s.loss)(*at)), (0, 1, 2))(*at)


N_ALL, OUT_Y, IN_Y = {"x": P(("x", "y"))}, {"w": P("y"), "b": P("y")}, {"w": P(None, "y")}
N_X, NC, ROWS = {"x": P("x")}, {"x": P("x", "y")}, {"x": P("x", None, "y")}
CASES = {
    "forward, n@x": Case(Setting.images, **N_X),
    "forward, n@x o@y": Case(Setting.images, **N_X, **OUT_Y),
    "forward, n@x c@y": Case(Setting.images, **NC, **IN_Y),
    "gradient, n@xy": Case(gradient, **N_ALL),
    "gradient, n@x o@y": Case(gradient, **N_X, **OUT_Y),
    "gradient, n@x c@y": Case(gradient, **NC, **IN_Y),
    "gradient, o@y": Case(gradient, **OUT_Y),
    "function's gradient, n@x o@y": Case(function_gradient, **N_X, **OUT_Y),
    "hvp, n@x": Case(hvp, **N_X),
    "hvp, n@x o@y": Case(hvp, **N_X, **OUT_Y),
    "hvp, n@x c@y": Case(hvp, **NC, **IN_Y),
    "jvp, n@x c@y": Case(push, **NC, **IN_Y),
    "jvp of b, n@x o@y": Case(push_bias, **N_X, **OUT_Y),
    "per-example gradients, n@x": Case(per_example, **N_X),
    "grad(b), n@x": Case(lambda s, *at: jax.grad(s.loss, 2)(*at), **N_X),
    "ensemble, e@x n@y": Case(ensemble, P("x", "y"), P("x"), P("x"), "xe we be"),
    "forward, rows@y": Case(Setting.images, **ROWS),
    "gradient, rows@y": Case(gradient, **ROWS),
    "function's gradient, rows@y": Case(function_gradient, **ROWS),
    "hvp, rows@y": Case(hvp, **ROWS),
    "gradient, c@y of x": Case(gradient, **NC),
    "function's gradient, c@y of w": Case(function_gradient, **N_X, **IN_Y),
    "FSDP gradient, n@x o@x": Case(gradient, P("x"), P("x"), P("x"), only="auto"),
}
GROUPED = (
    "forward, n@x",
    "gradient, rows@y",
    "gradient, n@xy",
    "hvp, n@x",
    "per-example gradients, n@x",
    "ensemble, e@x n@y",
)
DEFAULT = (Setting("Conv2d", "silu"), Setting("ConvTranspose2d", "relu"))


def matrix():
    for kind in ("Conv2d", "ConvTranspose2d"):
        for setting in [Setting(kind, act, g) for act in (None, "silu", "relu") for g in (1, 2)]:
            for name, case in CASES.items():
                if setting.groups > 1 and name not in GROUPED:
                    continue
                for mesh in case.only.split():
                    explicit, automatic = (
                        (setting, mesh) == (DEFAULT[0], "explicit"),
                        (setting, mesh) == (DEFAULT[1], "auto"),
                    )
                    often = explicit or (automatic and "gradient" in name)
                    marks = [] if often else pytest.mark.extended
                    yield pytest.param(
                        setting, name, mesh, id=f"{setting}-{name}-{mesh}".replace(" ", "_"), marks=marks
                    )


@pytest.mark.parametrize(("setting", "name", "mesh_type"), list(matrix()))
def test_against_one_device(setting, name, mesh_type, monkeypatch):
    case, operands = CASES[name], setting.operands()
    at = [operands[n] for n in case.names.split()]
    expected = jax.jit(lambda *at: case.f(setting, *at))(*at)

    partitioned = count_calls(monkeypatch)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AXES[mesh_type],) * 2)
    with jax.set_mesh(mesh) if mesh_type == "explicit" else contextlib.nullcontext():
        specs = (case.x, case.w, case.b)
        placed = [jax.device_put(t, NamedSharding(mesh, spec)) for t, spec in zip(at, specs, strict=True)]
        found = jax.jit(lambda *at: case.f(setting, *at))(*placed)
    assert partitioned
    assert_close(found, expected, roundings=500)


@pytest.mark.parametrize(
    ("kind", "images", "names", "specs"),
    [
        ("Conv2d", 8, "x w b", (P(("x", "y")), P("x"), P("x"))),
        ("ConvTranspose2d", 6, "x w b", (P("x"), P(None, "y"), P())),
        ("Conv2d", 8, "xe we be", (P("y", "x"), P("y"), P("y"))),
    ],
    ids=["FSDP", "six images on four devices", "ensemble"],
)
def test_grouped_programs_that_xla_would_gather_for(kind, images, names, specs, monkeypatch):
    """Stock's, as on a GPU without a kernel; nothing but that is decided for this test."""
    monkeypatch.setattr(formulations, "choose", lambda *of: (formulations.STOCK, "as on a GPU"))
    setting, seen = Setting(kind, "silu", groups=2), note_calls(monkeypatch)
    at = [t[..., :images, :, :, :] if n[0] == "x" else t for n, t in setting.operands().items() if n in names.split()]
    f = functools.partial(ensemble if names == "xe we be" else gradient, setting)
    expected = jax.jit(f)(*at)
    assert not seen
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    placed = lambda *at: [
        jax.lax.with_sharding_constraint(t, NamedSharding(mesh, s)) for t, s in zip(at, specs, strict=True)
    ]
    assert_close(jax.jit(lambda *at: f(*placed(*at)))(*at), expected, roundings=500)
    assert set(seen) == {"affine", "bwd"}


def count_calls(monkeypatch) -> list[str]:
    """Divide everything by our rules, and note each equation of which a device got a block."""
    standin.partition_everything(monkeypatch)
    return note_calls(monkeypatch)


def note_calls(monkeypatch) -> list[str]:
    seen, one_device = [], partitioning.one_device

    def noted(equation, *rest):
        seen.append(equation.primitive)
        return one_device(equation, *rest)

    monkeypatch.setattr(partitioning, "one_device", noted)
    return seen


def test_an_explicit_mesh_keeps_images_sharded_as_lax_does():
    """Our result is whole along an axis that the mesh does not divide, and else sharded as lax's is."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((2, 8, 12, 8)), NamedSharding(mesh, P("y", None, "x")))
        spec = lambda conv: jax.eval_shape(jax.vmap(conv), x).sharding.spec
        settings = {"padding": 1, "key": jax.random.key(0)}
        assert (
            spec(pc.Conv2d(8, 16, 3, **settings))
            == spec(eqx.nn.Conv2d(8, 16, 3, **settings))
            == P("y", None, "x", None)
        )
        assert spec(pc.Conv2d(8, 16, 3, stride=2, **settings)) == P("y", None, None, None)


def test_two_axes_of_a_result_may_not_share_a_mesh_axis():
    operands = Setting("Conv2d", None).operands()
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x, w = (jax.device_put(operands[n], NamedSharding(mesh, P("y"))) for n in "xw")
        with pytest.raises(TypeError, match=r"over the same mesh axis; jax\.reshard one of the operands x, w first"):
            pc.conv(x, w)


def test_grouped_channels_may_not_be_sharded_on_an_explicit_mesh():
    """Automatic meshes gather them; explicit ones leave that to the caller."""
    setting = Setting("Conv2d", None, groups=2)
    operands = setting.operands()
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(operands["x"], NamedSharding(mesh, P("x", "y")))
        with pytest.raises(TypeError, match="must be whole on every device"):
            jax.jit(setting.images)(x, operands["w"], operands["b"])

"""Programs for two and four H100s: launches on every device, and what is sent between them."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import pallas_conv as pc
from compiled import aot
from tests.transforms import programs, standin
from tests.transforms.problems import layer

pytestmark = pytest.mark.aot
AXES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


def mesh_of(count, axis_type):
    """("x",), or ("x", "y") for four."""
    devices = aot.sharding("h100", count).mesh.devices
    shape, names = ((2, 2), ("x", "y")) if count == 4 else ((count,), ("x",))
    return jax.sharding.Mesh(devices.reshape(shape), names, axis_types=(AXES[axis_type],) * len(names))


def compiled_on(mesh, f, *args):
    """args: (shape, spec) or (shape, spec, dtype)."""
    structs = [
        jax.ShapeDtypeStruct(shape, *(dtype or [jnp.float32]), sharding=NamedSharding(mesh, spec))
        for shape, spec, *dtype in args
    ]
    explicit = mesh.axis_types[0] == AxisType.Explicit
    with jax.set_mesh(mesh) if explicit else contextlib.nullcontext():
        return jax.jit(f).lower(*structs).compile()


def u(x, w, b):
    return layer(pc.Conv2d, w, b, padding=1, activation="silu")(x)


def v(x, w, b):
    return jax.vmap(lambda x: u(x, w, b))(x)


def function(x, w, b, **settings):
    return pc.conv(x, w, b, padding=1, activation="silu", **settings)


def total(y):
    return jnp.sum(y.astype(jnp.float32) ** 2)


def of(call, argnums):
    return lambda x, w, b: jax.grad(lambda *at: total(call(*at)), argnums)(x, w, b)


def two_layers(x, w, b, w2, b2):
    return jax.grad(lambda p: total(v(v(x, *p[:2]), *p[2:])))((w, b, w2, b2))


def hvp(x, w, b):
    return jax.jvp(lambda w, b: of(v, (1, 2))(x, w, b), (w, b), (w, b))[1]


def ensemble(*at):
    return jax.grad(lambda *at: jnp.sum(jax.vmap(lambda *at: total(v(*at)))(*at)), (0, 1, 2))(*at)


def per_example(x, w, b):
    return jax.vmap(lambda x: jax.grad(lambda w, b: total(u(x, w, b)), (0, 1))(w, b))(x)


def twice_batched(x, w, b):
    return jax.grad(lambda w, b: total(jax.vmap(lambda x: v(x, w, b))(x)), (0, 1))(w, b)


def low_precision(x, w, b):
    return of(lambda *at: function(*at, compute_dtype=jnp.bfloat16), (1, 2))(x, w, b)


X, W, B = (8, 16, 14, 14), (24, 16, 3, 3), (24,)
NX, WHOLE = P("x"), P()


def at(x=NX, w=WHOLE, b=WHOLE):
    return (X, x), (W, w), (B, b)


class Case(NamedTuple):
    f: Callable[..., Any]
    args: tuple
    launches: dict[str, int]
    collectives: dict[str, int]
    devices: int = 2


FORWARD, ALL, TRAIN = {"affine_y": 1}, {"affine_y_z": 1, "bwd_dx_dw_db": 1}, {"affine_y_z": 1, "bwd_dw_db": 1}
STEP = {"affine_y_z": 2, "bwd_dw_db": 1, "bwd_dx_dw_db": 1}
ONE = {"all-reduce": 1}
CASES = {
    "forward, n@x": Case(v, at(), FORWARD, {}),
    "grad(x, w, b), n@x": Case(of(v, (0, 1, 2)), at(), ALL, ONE),
    "grad(w, b), n@x": Case(of(v, (1, 2)), at(), TRAIN, ONE),
    "conv: grad(x, w, b), n@x": Case(of(function, (0, 1, 2)), at(), ALL, ONE),
    "two layers, n@x": Case(two_layers, (*at(), ((24, 24, 3, 3), P()), (B, P())), STEP, ONE),
    "forward, o@x": Case(v, at(P(), P("x"), P("x")), FORWARD, {}),
    "grad(x, w, b), o@x": Case(of(v, (0, 1, 2)), at(P(), P("x"), P("x")), ALL, ONE),
    "forward, c@x": Case(v, at(P(None, "x"), P(None, "x")), {"fprop": 1}, ONE),
    "grad(x, w, b), c@x": Case(
        of(v, (0, 1, 2)), at(P(None, "x"), P(None, "x")), {"fprop": 1, "bwd_dx_dw_db": 1}, ONE
    ),
    "grad(x, w, b), n@x o@y": Case(of(v, (0, 1, 2)), at(NX, P("y"), P("y")), ALL, {"all-reduce": 2}, 4),
    "grad(x, w, b), n@xy": Case(of(v, (0, 1, 2)), at(P(("x", "y"))), ALL, ONE, 4),
    "ensemble, e@x": Case(ensemble, (((4, *X), NX), ((4, *W), NX), ((4, *B), NX)), ALL, {}),
    "per-example gradients, n@x": Case(per_example, at(), TRAIN, {}),
    "hvp, n@x": Case(hvp, at(), {"affine_y_z": 1, "bwd_dw_db": 1, "tangent": 1}, ONE),
    "twice batched, n@x": Case(twice_batched, (((5, *X), P(None, "x")), (W, P()), (B, P())), TRAIN, ONE),
    "grad(x, w, b), x replicated": Case(of(v, (0, 1, 2)), at(P()), ALL, {}),
    "grad(w, b) in bfloat16, n@x": Case(low_precision, at(), TRAIN, ONE),
}  # fmt: skip
DEFAULT = {
    ("grad(x, w, b), n@x", "auto"), ("grad(x, w, b), n@x", "explicit"), ("two layers, n@x", "auto"), ("forward, c@x", "auto"),
    ("grad(x, w, b), n@x o@y", "explicit"), ("per-example gradients, n@x", "auto"), ("ensemble, e@x", "explicit"),
}  # fmt: skip
MATRIX = [
    pytest.param(name, mesh, marks=[] if (name, mesh) in DEFAULT else pytest.mark.extended)
    for name in CASES
    for mesh in AXES
]


@pytest.mark.parametrize(("name", "mesh_type"), MATRIX)
def test_standins(name, mesh_type, monkeypatch):
    standin.serve_everything(monkeypatch)
    case = CASES[name]
    compiled = compiled_on(mesh_of(case.devices, mesh_type), case.f, *case.args)
    assert programs.launches(compiled, standin.PREFIX) == case.launches
    assert programs.collectives(compiled) == case.collectives


def test_fsdp_gathers_the_weights_only(monkeypatch):
    standin.serve_everything(monkeypatch)
    compiled = compiled_on(mesh_of(2, "auto"), of(v, (0, 1, 2)), *at(NX, P("x"), P("x")))
    assert programs.launches(compiled, standin.PREFIX) == ALL
    gathered = [
        line for line in compiled.as_text().splitlines() if " all-gather(" in line or " all-gather-start(" in line
    ]
    assert gathered
    assert not any("14,14" in line for line in gathered)


@pytest.mark.parametrize("check_vma", [True, pytest.param(False, marks=pytest.mark.extended)])
def test_shard_map(check_vma, monkeypatch):
    standin.serve_everything(monkeypatch)
    mesh = mesh_of(2, "auto")
    mean = lambda x, w, b: lax.pmean(total(v(x, w, b)), "x")
    sharded = jax.shard_map(mean, mesh=mesh, in_specs=(NX, P(), P()), out_specs=P(), check_vma=check_vma)
    compiled = compiled_on(mesh, jax.grad(sharded, (1, 2)), *at())
    assert programs.launches(compiled, standin.PREFIX) == TRAIN
    assert "all-gather" not in programs.collectives(compiled)


def partially_manual(implementation):
    mesh = mesh_of(4, "auto")

    def mean(x, w, b):
        with pc.implementation(implementation):
            return lax.pmean(total(v(x, w, b)), "x")

    sharded = jax.shard_map(mean, mesh=mesh, in_specs=(NX, P(), P()), out_specs=P(), axis_names={"x"})
    return mesh, jax.grad(sharded, (1, 2)), at(P(("x", "y")))


@pytest.mark.extended
def test_partially_manual_shard_map_is_left_to_xla(monkeypatch):
    standin.serve_everything(monkeypatch)
    mesh, f, args = partially_manual("auto")
    compiled = compiled_on(mesh, f, *args)
    assert programs.launches(compiled, standin.PREFIX) == {}


def test_a_strict_kernel_in_a_partially_manual_shard_map_is_refused(monkeypatch):
    standin.serve_everything(monkeypatch)
    mesh, f, args = partially_manual("mosaic")
    with pytest.raises(pc.UnsupportedError, match="partially manual shard_map"):
        compiled_on(mesh, f, *args)


# ---------------------------------------------------------------- the kernels themselves

BF16 = ((8, 32, 12, 12), NX, jnp.bfloat16), ((48, 32, 3, 3), P(), jnp.bfloat16), ((48,), P(), jnp.bfloat16)
PREFIX = "pallas_conv_"


def served(x, w, b):
    return function(x, w, b, implementation=("mosaic", "xla"))


@pytest.mark.parametrize("mesh_type", ["auto", pytest.param("explicit", marks=pytest.mark.extended)])
def test_kernels_forward(mesh_type):
    compiled = compiled_on(mesh_of(2, mesh_type), served, *BF16)
    assert programs.launches(compiled, PREFIX) == {"dense_fprop_2d_bf16_s1_bias_silu": 1}
    ((_, (shape,)),) = programs.results(compiled, PREFIX)
    assert shape.startswith("bf16[4,")  # half the batch
    assert programs.collectives(compiled) == {}


STEPS = {  # what a gradient is taken of -> the kernels beside the forward pass
    "x w b": {"dense_dgrad_2d_bf16_s1_linear": 1, "wgrad_2d_bf16f32_s1_linear": 1},
    "w b": {"wgrad_2d_bf16f32_s1_linear": 1},
    "w": {"wgrad_2d_bf16f32_s1_linear": 1},
    "x": {"dense_dgrad_2d_bf16_s1_linear": 1},
}
OFTEN = {("x w b", "explicit"), ("w b", "auto")}


@pytest.mark.parametrize(
    ("wrt", "mesh_type"),
    [pytest.param(*at, marks=[] if at in OFTEN else pytest.mark.extended) for at in itertools.product(STEPS, AXES)],
)
def test_kernels_in_a_training_step(wrt, mesh_type):
    """All products are kernels'. Devices send one sum of the gradients of weights and bias, in float32, and nothing else."""
    argnums = tuple("xwb".index(name) for name in wrt.split())
    compiled = compiled_on(mesh_of(2, mesh_type), of(served, argnums), *BF16)
    assert programs.launches(compiled, PREFIX) == {"dense_fprop_2d_bf16_s1_bias_silu_yz": 1} | STEPS[wrt]
    assert programs.collectives(compiled) == ({} if wrt == "x" else ONE)


def test_bias_gradients_in_passing_are_sent_with_those_of_weights():
    """Each device's kernel sums its own images' cotangents, too."""
    linear = lambda x, w, b: pc.conv(x, w, b, padding=1, implementation=("mosaic", "xla"))
    compiled = compiled_on(mesh_of(2, "auto"), of(linear, (1, 2)), *BF16)
    assert programs.launches(compiled, PREFIX) == {"dense_fprop_2d_bf16_s1_bias": 1, "wgrad_2d_bf16f32_s1_dwdb": 1}
    assert programs.collectives(compiled) == ONE


def test_kernels_of_per_example_gradients_send_nothing():
    """Each device launches one kernel, with its own examples in it."""
    one = lambda x, w, b: jax.grad(lambda w, b: total(served(x[None], w, b)), (0, 1))(w, b)
    compiled = compiled_on(mesh_of(2, "auto"), lambda x, w, b: jax.vmap(lambda x: one(x, w, b))(x), *BF16)
    launches = programs.launches(compiled, PREFIX)
    assert launches == {"dense_fprop_2d_bf16_s1_bias_silu_yz": 1, "wgrad_2d_bf16_s1_models_linear": 1}
    assert programs.collectives(compiled) == {}

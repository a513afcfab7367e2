"""Gradients of one layer compiled for an H100: one launch for each gradient that somebody wants."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc
from compiled import aot
from tests.transforms import programs

pytestmark = pytest.mark.aot

FORWARD = "dense_fprop_2d_bf16_s1_bias"
IMAGES = 7  # no size of a tile
DX, DW, DWDB = "dense_dgrad_2d_bf16_s1_linear", "wgrad_2d_{}_s1_linear", "wgrad_2d_{}_s1_dwdb"

WANTED = {  # what is differentiated -> the kernels beside the forward one
    "x w b": {DX, DWDB},
    "w b": {DWDB},  # a first layer
    "w": {DW},
    "x": {DX},  # frozen
    "x b": {DX},
    "b": set(),
}


def gradients(wrt: str, x: jax.Array, w: jax.Array, b: jax.Array) -> tuple[jax.Array, ...]:
    """Gradients of a module that is vmapped over images, as a training step takes them."""
    at = {"x": x, "w": w, "b": b}
    module = pc.Conv2d(32, 48, 3, padding=1, key=jax.random.key(0), compute_dtype=jnp.bfloat16)

    def loss(some: dict[str, jax.Array]) -> jax.Array:
        it = at | some
        layer = eqx.tree_at(lambda m: (m.weight, m.bias), module, (it["w"], it["b"][:, None, None]))
        return jnp.sum(jnp.sin(jax.vmap(layer)(it["x"]).astype(jnp.float32)))

    with pc.implementation("mosaic"):
        return tuple(jax.grad(loss)({name: at[name] for name in wrt.split()}).values())


def compiled(wrt: str, weights: str) -> jax.stages.Compiled:
    shapes = {"x": (IMAGES, 32, 14, 14), "w": (48, 32, 3, 3), "b": (48,)}
    operands = [jax.ShapeDtypeStruct(shape, "bfloat16" if name == "x" else weights) for name, shape in shapes.items()]
    return aot.compile_for("h100", lambda *at: gradients(wrt, *at), *operands)


@pytest.mark.parametrize("wrt", WANTED)
def test_one_launch_for_each_gradient_that_is_wanted(wrt):
    launches = programs.launches(compiled(wrt, "bfloat16"), "pallas_conv_")
    assert launches == {name.format("bf16"): 1 for name in WANTED[wrt]} | {FORWARD: 1}


def test_gradients_of_float32_weights_are_the_kernels_sums():
    """Mixed precision: nothing is rounded on the way, and the bias gradient is of the same pass over the cotangent."""
    program = compiled("w b", "float32")
    assert programs.launches(program, "pallas_conv_") == {FORWARD: 1, DWDB.format("bf16f32"): 1}
    (_, (weights, biases)) = next(it for it in programs.results(program, "pallas_conv_") if it[0].startswith("wgrad"))
    assert weights.startswith("f32[")
    assert biases.startswith("f32[")

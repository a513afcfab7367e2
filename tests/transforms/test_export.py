"""Exported programs: for several platforms, with symbolic batches and images."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc
from tests.transforms.problems import MAIN, assert_close, data
from tests.transforms.transformations.registry import args, batch_loss
from tests.transforms.transformations.reverse import value_and_grad_of_vmap


@pytest.mark.parametrize("platforms", [("cpu",), ("cpu", "cuda")], ids="+".join)
@pytest.mark.parametrize("batch", ["3", "n"], ids=["static", "symbolic"])
@pytest.mark.parametrize("problem", MAIN, ids=str)
def test_export(problem, batch, platforms):
    d = data(problem, "float32")
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"{batch}, {', '.join(map(str, d.x.shape[1:]))}"), d.x.dtype)
    ours = jax.value_and_grad(batch_loss(problem.ours.strided), (0, 1, 2))
    exported = jax.export.export(jax.jit(ours), platforms=platforms)(d.w, d.b, x)
    assert exported.platforms == platforms
    assert_close(exported.call(*args(d)), value_and_grad_of_vmap(problem.stock, d))


def test_export_for_several_platforms_takes_the_program_of_each():
    """The best program of one platform is not handed to another; a platform that is not known by itself gets stock's."""
    layer = pc.ConvTranspose2d(64, 32, 2, 2, key=jax.random.key(0))
    x = jax.ShapeDtypeStruct((8, 64, 16, 16), jnp.float32)
    program = lambda *platforms: jax.export.export(jax.jit(jax.vmap(layer)), platforms=platforms)(x).mlir_module()
    assert "convolution" not in program("cpu")  # one matrix product
    assert program("cuda", "cpu").count("stablehlo.convolution(") == 1
    for platforms in (("tpu",), ("tpu", "rocm")):
        stock = program(*platforms)
        assert stock.count("stablehlo.convolution(") == len(platforms)
        assert "stablehlo.reverse" not in stock


@pytest.mark.parametrize(
    "layer",
    [
        lambda nn, key: nn.Conv2d(4, 8, 4, stride=4, key=key),
        lambda nn, key: nn.Conv2d(4, 8, 3, dilation=2, padding=1, key=key),
        lambda nn, key: nn.ConvTranspose2d(4, 8, 3, stride=2, padding=2, key=key),
    ],
)
def test_export_with_symbolic_images(layer):
    stock, ours = (jax.vmap(layer(nn, jax.random.key(0))) for nn in (eqx.nn, pc))
    shape = jax.export.symbolic_shape("n, 4, h, w")
    exported = jax.export.export(jax.jit(ours))(jax.ShapeDtypeStruct(shape, jnp.float32))
    for size in ((2, 4, 9, 8), (1, 4, 16, 17)):
        x = jax.random.normal(jax.random.key(1), size)
        assert_close(exported.call(x), stock(x))


@pytest.mark.parametrize("implementation", ["mosaic", ("mosaic", "interpret")])
def test_export_of_a_kernel_with_a_symbolic_batch_is_refused(implementation):
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 8, 6, 6"), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((8, 8, 3, 3), jnp.bfloat16)
    f = jax.jit(functools.partial(pc.conv, implementation=implementation))
    with pytest.raises(pc.UnsupportedError, match="sizes that are numbers"):
        jax.export.export(f, platforms=["cuda"])(x, w)

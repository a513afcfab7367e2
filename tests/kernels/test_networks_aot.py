"""Whole training steps for an H100 that need not be there: what the kernels cost around themselves, beside stock equinox."""

import math
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc
from compiled import aot, hlo
from workloads.models import NETWORKS, resnet
from workloads.models.common import photographs

pytestmark = [pytest.mark.aot, pytest.mark.extended]

IMAGES = 40  # no number of channels and no size of an image: a shape with it is an activation's


def compiled(network: Any, convert: Any, implementation: Any) -> jax.stages.Compiled:
    """A step of the published network in bfloat16, optimiser included, from shapes alone.

    Photographs are of published size: beside smaller ones, parts of weight gradients would outweigh activations.
    """

    def halved(tree: Any) -> Any:
        is_float = lambda a: isinstance(a, jax.ShapeDtypeStruct) and jnp.issubdtype(a.dtype, jnp.floating)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) if is_float(a) else a, tree)

    model = halved(convert(eqx.filter_eval_shape(lambda: network.build(jax.random.key(0), 1))))
    params, static = eqx.partition(model, lambda a: isinstance(a, jax.ShapeDtypeStruct))
    state = jax.eval_shape(lambda p: network.start(eqx.combine(p, static)), params)
    side = {"side": network.published.side} if network.batch is photographs else {}
    batch = halved(jax.eval_shape(lambda: network.batch(jax.random.key(0), IMAGES, **side)))
    leaves, tree = jax.tree.flatten((params, state, batch))

    def step(*leaves: jax.Array) -> list[jax.Array]:
        params, state, batch = jax.tree.unflatten(tree, leaves)
        with pc.implementation(implementation):
            model, state, loss = network.step(eqx.combine(params, static), state, *batch)
        return jax.tree.leaves((eqx.filter(model, eqx.is_array), state, loss))

    return aot.compile_for("h100", step, *leaves)


def moves_of_activations(program: hlo.Program) -> list[hlo.Move]:
    """Transpositions, copies and paddings, by themselves or inside fusions, of arrays of at least 2^16 elements."""
    return [move for move in program.moves if IMAGES in move.shape and math.prod(move.shape) >= 2**16]


def kernels(moves: list[hlo.Move]) -> int:
    """Number of moves that move something. Each reads and writes its array once, in however many steps the program says it."""
    return len({move.kernel for move in moves})


def of_images(moves: list[hlo.Move]) -> set[str]:
    """Moves of images, of three channels: kernels gather their taps as channels, once forward and once for weight gradients.

    Stock transposes them once.
    """
    return {move.kernel for move in moves if 3 in move.shape}


def beyond_images(moves: list[hlo.Move]) -> list[hlo.Move]:
    images = of_images(moves)
    return [move for move in moves if move.kernel not in images]


DENSE = ("dense_fprop", "dense_dgrad", "wgrad")
SEVEN = ("depthwise_fprop", "depthwise_dgrad", "depthwise_wgrad")  # of kernels of 7x7
DEPTHWISE = ("depthwise_fprop", "depthwise_bwd")
EVERY = NETWORKS | {network.name: network for network in (resnet.RESNET50, resnet.RESNEXT50)}
STEPS = {  # network -> its kernels, each of which is launched more than ten times
    **dict.fromkeys(("resnet18", "unet", "unet3d", "dcgan", "resnet50"), DENSE),
    "convnext": (*DENSE, *SEVEN),
    **dict.fromkeys(("efficientnet", "resnext50"), (*DENSE, *DEPTHWISE)),
    "mamba": DEPTHWISE,
}


# Temporary memory over stock's: beside so few layers, the images' taps as channels show.
MORE_MEMORY = {"resnet18": 1.02}
# Moves of images over stock's: a generator's and a discriminator's, real ones and made ones, in three passes.
MORE_OF_IMAGES = {"dcgan": 8}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("network", [EVERY[name] for name in STEPS], ids=STEPS)
def test_a_training_step_is_of_kernels_alone_and_moves_less_than_stocks(network):
    """Weight gradients too: no convolution of XLA's library is left, and activations stay channels last."""
    stock = compiled(network, lambda model: model, "auto")
    ours = compiled(network, pc.convert, "mosaic")
    program = hlo.read(ours.as_text())
    assert {call.kind for call in program.calls} <= {"matmul"}  # of layers that are no convolutions
    for kernel in STEPS[network.name]:
        assert len(re.findall(rf"pallas_conv_{kernel}_.d_bf16", ours.as_text())) > 10
    moves, stocks = moves_of_activations(program), moves_of_activations(hlo.read(stock.as_text()))
    assert moves
    assert stocks
    assert len(of_images(moves)) <= len(of_images(stocks)) + MORE_OF_IMAGES.get(network.name, 1)
    moves, stocks = beyond_images(moves), beyond_images(stocks)
    assert len(moves) <= len(stocks)
    assert kernels(moves) <= kernels(stocks)
    copies = lambda moves: sum(move.opcode != "pad" for move in moves)
    assert copies(moves) <= (2 if network.name == "unet3d" else copies(stocks))
    most = MORE_MEMORY.get(network.name, 1.0) * stock.memory_analysis().temp_size_in_bytes
    assert ours.memory_analysis().temp_size_in_bytes <= most

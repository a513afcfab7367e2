"""Whole training steps for an H100 that need not be there: what the kernels cost around themselves, beside stock equinox."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import pallas_conv as pc
from compiled import aot, hlo
from workloads.models import NETWORKS, resnet

pytestmark = [pytest.mark.aot, pytest.mark.extended]

EXCEEDS = {"resnet50": 1}  # 16 moves to stock's 15: two of its stem's lie in one kernel
IMAGES = 40  # no number of channels and no size of an image: a shape with it is an activation's


def compiled(network: Any, convert: Any, implementation: Any) -> jax.stages.Compiled:
    """A step of the published network in bfloat16, optimiser included, from shapes alone."""

    def halved(tree: Any) -> Any:
        is_float = lambda a: isinstance(a, jax.ShapeDtypeStruct) and jnp.issubdtype(a.dtype, jnp.floating)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) if is_float(a) else a, tree)

    model = halved(convert(eqx.filter_eval_shape(lambda: network.build(jax.random.key(0), 1))))
    params, static = eqx.partition(model, lambda a: isinstance(a, jax.ShapeDtypeStruct))
    state = jax.eval_shape(lambda p: network.start(eqx.combine(p, static)), params)
    batch = halved(jax.eval_shape(lambda: network.batch(jax.random.key(0), IMAGES)))
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


@pytest.mark.timeout(280)
@pytest.mark.parametrize("network", [NETWORKS["resnet18"], resnet.RESNET50, NETWORKS["unet"]], ids=lambda n: n.name)
def test_a_training_step_moves_no_more_than_stocks(network):
    stock = compiled(network, lambda model: model, "auto")
    ours = compiled(network, pc.convert, ("mosaic", "xla"))
    program = hlo.read(ours.as_text())
    # Of XLA's library, weight gradients alone.
    assert not {call.kind for call in program.calls} & {"convForward", "convBackwardInput"}
    assert ours.as_text().count("pallas_conv_dense_fprop_2d_bf16") > 10
    assert ours.as_text().count("pallas_conv_dense_dgrad_2d_bf16") > 10
    moves, stocks = moves_of_activations(program), moves_of_activations(hlo.read(stock.as_text()))
    assert 0 < len(moves) <= len(stocks) + EXCEEDS.get(network.name, 0)
    assert 0 < kernels(moves) <= kernels(stocks)
    copies = lambda moves: sum(move.opcode != "pad" for move in moves)
    assert 0 < copies(moves) <= copies(stocks)
    assert ours.memory_analysis().temp_size_in_bytes <= stock.memory_analysis().temp_size_in_bytes


@pytest.mark.timeout(280)
def test_a_training_step_on_volumes_stays_channels_last():
    """Weight gradients too: as convolutions in two dimensions, for which XLA's library wants channels last."""
    network = NETWORKS["unet3d"]
    stock = compiled(network, lambda model: model, "auto")
    ours = compiled(network, pc.convert, ("mosaic", "auto"))
    assert ours.as_text().count("pallas_conv_dense_fprop_3d_bf16") > 10
    assert ours.as_text().count("pallas_conv_dense_dgrad_3d_bf16") > 10
    moves = moves_of_activations(hlo.read(ours.as_text()))
    assert sum(move.opcode != "pad" for move in moves) <= 2
    assert ours.memory_analysis().temp_size_in_bytes <= stock.memory_analysis().temp_size_in_bytes

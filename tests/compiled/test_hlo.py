"""Figures read from compiled GPU programs, against programs whose work is known."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from compiled import aot, hlo

pytestmark = pytest.mark.aot


def program(f, *shapes, dtype="bfloat16"):
    args = [jax.ShapeDtypeStruct(s, dtype) for s in shapes]
    return hlo.read(aot.compile_for("h100", f, *args).as_text())


X, W = (4, 32, 16, 16), (48, 32, 3, 3)
USEFUL = 2 * 4 * 48 * 32 * 9 * 16 * 16
conv = functools.partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME")


def test_a_convolution_is_one_call_with_its_window_and_its_multiply_adds():
    read = program(conv, X, W)
    (call,) = read.calls
    assert call.kind == "convForward"
    assert call.window.startswith("size=3x3")
    assert call.flops == read.flops == USEFUL
    assert read.kernels >= 3  # the change of x's and of y's layout


def test_both_gradients_and_their_multiply_adds():
    zeros = lambda shape: jnp.zeros(shape, "bfloat16")
    y = (4, 48, 16, 16)
    (dx,) = program(lambda ct, w: jax.vjp(lambda x: conv(x, w), zeros(X))[1](ct), y, W).calls
    (dw,) = program(lambda x, ct: jax.vjp(lambda w: conv(x, w), zeros(W))[1](ct), X, y).calls
    assert (dx.flops, dw.flops) == (USEFUL, USEFUL)
    assert dw.kind == "convBackwardFilter"


def test_groups_divide_the_multiply_adds():
    grouped = functools.partial(conv, feature_group_count=8)
    assert program(grouped, X, (48, 4, 3, 3)).flops == USEFUL / 8


def test_stuffed_zeros_are_counted():
    up = functools.partial(
        lax.conv_general_dilated, window_strides=(1, 1), padding=((1, 2), (1, 2)), lhs_dilation=(2, 2)
    )
    assert program(up, X, W).flops == 4 * USEFUL


@pytest.mark.parametrize("shape", [(256, 512, 128), (8, 512, 4)], ids=["large", "small"])
def test_matrix_products_count_whoever_computes_them(shape):
    m, k, n = shape
    read = program(jnp.matmul, (m, k), (k, n))
    assert read.flops == 2 * m * k * n
    assert {call.kind for call in read.calls} == {"matmul"}


def test_loops_count_as_often_as_they_run():
    def repeated(x, w):
        return lax.fori_loop(0, 5, lambda i, y: jnp.tanh(y @ w), x)

    once, five = (
        program(lambda x, w: jnp.tanh(x @ w), (256, 256), (256, 256)),
        program(repeated, (256, 256), (256, 256)),
    )
    assert five.flops == 5 * once.flops == 5 * 2 * 256**3
    assert five.kernels >= 5 * once.kernels


def test_what_launches_nothing_is_not_counted():
    assert program(lambda x: x.reshape(16, 4), (64,)).kernels <= 1  # at most a copy of the parameter
    assert program(lambda x: jnp.tanh(x) + 1, (64,)).kernels == 1


def test_moves_are_found_alone_and_inside_fusions():
    """A transposition after which something else is computed, and a pad."""
    x = (64, 128)
    (move,) = program(lambda x: x.T, x).moves
    assert (move.opcode, sorted(move.shape)) == ("transpose", [64, 128])
    moves = program(lambda x: (jnp.tanh(x).T, jnp.pad(x, 1)), x).moves
    assert {(m.opcode, *sorted(m.shape)) for m in moves} == {("transpose", 64, 128), ("pad", 66, 130)}
    assert not program(lambda x: jnp.tanh(x) + 1, x).moves

"""Rungs of what follows the sums of a depthwise convolution."""

from pallas_conv.kernels.depthwise.plan import Config

from ...configured import Case
from ..rung import Rung
from .products import fprop

# fmt: off
RUNGS: tuple[Rung, ...] = (
    Rung("depthwise: bias or activation", (
        Case("depthwise, bias", fprop(1, 32, (1, 16), 1, bias=True), Config((1, 1, 16), stages=2), num_sms=1, extended=True),
        Case("depthwise, 3x3, bias, silu", fprop(2, 40, (5, 19), 3, 1, 1, bias=True, activation="silu"),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2), num_sms=2),
        Case("depthwise, three blocks of channels, bias, relu",
             fprop(2, 72, (5, 9), (3, 2), 1, 1, bias=True, activation="relu"),
             Config((1, 2, 16), 2, 3, stages=5), num_sms=2, extended=True),
    )),
    Rung("depthwise: two outputs", (
        Case("depthwise, both outputs", fprop(1, 32, (1, 16), 1, activation="tanh", outputs=("y", "z")),
             Config((1, 1, 16), stages=2), num_sms=1, extended=True),
        Case("depthwise, 3x3, bias, gelu, both outputs",
             fprop(2, 40, (5, 19), 3, 1, 1, bias=True, activation="gelu", outputs=("y", "z")),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2), num_sms=2, extended=True),
    )),
    Rung("depthwise: residual", (
        Case("depthwise, residual", fprop(1, 32, (1, 16), 1, residual=True), Config((1, 1, 16), stages=2), num_sms=1,
             extended=True),
        Case("depthwise, 3x3, residual, several tiles a worker", fprop(3, 24, (7, 19), 3, 1, 1, residual=True),
             Config((1, 2, 16), 1, 2, column_warpgroups=2, stages=6), num_sms=2, extended=True),
        Case("depthwise, 3x2, bias, residual, relu, both outputs",
             fprop(2, 40, (5, 19), (3, 2), 1, 1, bias=True, residual=True, activation="relu", outputs=("y", "z")),
             Config((1, 2, 32), 2, 3, channel_warpgroups=2), num_sms=2),
    )),
    Rung("depthwise: wider result", (
        Case("depthwise, float32 result", fprop(1, 32, (1, 16), 1, out_dtype="float32"), Config((1, 1, 16), stages=2),
             num_sms=1, extended=True),
        Case("depthwise, 3x3, float32 result, residual, both outputs",
             fprop(2, 40, (5, 19), 3, 1, 1, bias=True, residual=True, activation="silu", outputs=("y", "z"),
                   out_dtype="float32"),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2), num_sms=2, extended=True),
    )),
)

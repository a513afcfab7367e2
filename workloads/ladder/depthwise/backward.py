"""Rungs of whole backward passes: input gradient, weight gradient and perhaps bias gradient at once."""

from pallas_conv.kernels.depthwise.plan import Config

from ...configured import Case
from ..rung import Rung
from .products import bwd

DB = ("dx", "dw", "db")

# fmt: off
RUNGS: tuple[Rung, ...] = (
    Rung("depthwise: whole backward pass", (
        Case("depthwise backward, 1x1", bwd(1, 32, (1, 16), 1), Config((1, 1, 16), stages=2, ctas_per_sm=2), num_sms=1,
             extended=True),
        Case("depthwise backward, 1x2, two fragments a row, bias", bwd(1, 64, (1, 33), (1, 2), 1, ((0, 0), (0, 1)), outputs=DB),
             Config((1, 1, 32), channel_warpgroups=2, stages=2), num_sms=1, extended=True),
        Case("depthwise backward, 3-D, 3x3x3, a consumer without channels", bwd(2, 8, (4, 5, 9), 3, 1, 1),
             Config((1, 1, 16), channel_warpgroups=2, stages=3), num_sms=2, extended=True),
        Case("depthwise backward, 3x3 of whole tiles, slots used again", bwd(4, 64, (8, 16), 3, 1, 1),
             Config((1, 2, 16), 2, 4, channel_warpgroups=2, stages=5), num_sms=2, extended=True),
        Case("depthwise backward, 3x3, cropped, float32 dx", bwd(2, 24, (9, 21), 3, 1, ((-2, 1), (1, -3)), out_dtype="float32"),
             Config((1, 4, 16), 4, 3, column_warpgroups=2, stages=4), num_sms=2, extended=True),
        Case("depthwise backward, causal k4, bias", bwd(3, 72, (40,), 4, 1, ((3, 0),), outputs=DB),
             Config((1, 1, 32), channel_warpgroups=2, stages=3), num_sms=2, extended=True),
        Case("depthwise backward, 5x3, asymmetric padding, consumers over columns",
             bwd(2, 24, (9, 37), (5, 3), 1, ((1, 3), (2, 0))), Config((1, 2, 16), 2, 3, column_warpgroups=2, stages=6),
             num_sms=2, extended=True),
        Case("depthwise backward, 3x4 s2, odd sizes, bias", bwd(3, 40, (9, 37), (3, 4), 2, 1, outputs=DB),
             Config((1, 2, 16), 1, 3, channel_warpgroups=2, stages=6), num_sms=2, extended=True),
        Case("depthwise backward, transposed 3x3 s2, two models", bwd(2, 24, (4, 19), 3, 1, 1, input_dilation=2, models=2),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2, stages=4), num_sms=2, extended=True),
        Case("depthwise backward, 3-D, 3x2x3, tiles of two planes, bias",
             bwd(1, 40, (5, 6, 19), (3, 2, 3), 1, (1, (1, 0), 1), outputs=DB),
             Config((2, 2, 16), 1, 3, channel_warpgroups=2, stages=5), num_sms=2, extended=True),
        Case("depthwise backward, groups of four, 3x5, padding on one side, bias",
             bwd(3, 40, (9, 37), (3, 5), 1, ((2, 0), (1, 3)), group=4, outputs=DB),
             Config((1, 2, 32), 1, 3, channel_warpgroups=2, stages=6), num_sms=2),
        Case("depthwise backward, one channel in, two out, 3x3 s2, odd sizes, bias",
             bwd(3, 20, (9, 37), 3, 2, 1, group=(1, 2), outputs=DB),
             Config((1, 2, 16), 1, 3, channel_warpgroups=2, stages=6), num_sms=2, extended=True),
        Case("depthwise backward, float32, 5x5, bias", bwd(2, 40, (9, 35), 5, 1, 2, dtype="float32", outputs=DB),
             Config((1, 2, 32), 2, 3, channel_warpgroups=2, stages=5), num_sms=2, extended=True),
        Case("depthwise backward, float32, groups of two, 2x3, bias",
             bwd(2, 36, (9, 21), (2, 3), 1, ((1, 0), (1, 1)), group=2, dtype="float32", outputs=DB),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2, stages=4), num_sms=2, extended=True),
        Case("depthwise backward, float16, groups of eight, dilated",
             bwd(2, 40, (9, 25), 3, 1, 2, 2, group=8, dtype="float16"),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2, stages=5), num_sms=2, extended=True),
    )),
    Rung("depthwise: derivative of an activation", (
        Case("depthwise backward, 1x1, relu", bwd(1, 64, (1, 16), 1, activation="relu"),
             Config((1, 1, 16), channel_warpgroups=2, stages=2), num_sms=1, extended=True),
        Case("depthwise backward, causal k4, silu, bias", bwd(3, 72, (40,), 4, 1, ((3, 0),), activation="silu", outputs=DB),
             Config((1, 1, 32), channel_warpgroups=2, stages=3), num_sms=2),
        Case("depthwise backward, 3x4 s2, odd sizes, gelu, bias",
             bwd(3, 40, (9, 37), (3, 4), 2, 1, activation="gelu", outputs=DB),
             Config((1, 2, 16), 1, 3, channel_warpgroups=2, stages=6), num_sms=2, extended=True),
        Case("depthwise backward, transposed 3x3 s2, two models, tanh",
             bwd(2, 24, (4, 19), 3, 1, 1, input_dilation=2, models=2, activation="tanh"),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2, stages=4), num_sms=2, extended=True),
        Case("depthwise backward, 3-D, 2x3x3, leaky relu, bias",
             bwd(1, 40, (5, 6, 19), (2, 3, 3), 1, ((1, 0), 1, 1), activation="leaky_relu", outputs=DB),
             Config((2, 2, 16), 1, 3, channel_warpgroups=2, stages=4), num_sms=2, extended=True),
        Case("depthwise backward, groups of four, 3x5, padding on one side, sigmoid, bias",
             bwd(3, 40, (9, 37), (3, 5), 1, ((2, 0), (1, 3)), group=4, activation="sigmoid", outputs=DB),
             Config((1, 2, 32), 1, 3, channel_warpgroups=2, stages=6), num_sms=2, extended=True),
        Case("depthwise backward, float32, 5x3, gelu_tanh, bias",
             bwd(2, 40, (9, 35), (5, 3), 1, (2, 1), dtype="float32", activation="gelu_tanh", outputs=DB),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2, stages=4), num_sms=2, extended=True),
        Case("depthwise backward, groups of three, two models, 5x3, silu, bias",
             bwd(2, 24, (9, 35), (5, 3), 1, (2, 1), group=3, models=2, activation="silu", outputs=DB),
             Config((1, 2, 32), 2, 3, channel_warpgroups=2, stages=5), num_sms=2, extended=True),
    )),
)

"""Rungs of gradients of depthwise convolutions."""

from pallas_conv.kernels.depthwise.plan import Config

from ...configured import Case
from ..rung import Rung
from .products import dgrad, wgrad

BOTH = ("dw", "db")

# fmt: off
RUNGS: tuple[Rung, ...] = (
    Rung("depthwise: input gradient", (
        Case("depthwise dx, 1x1", dgrad(1, 32, (1, 16), 1), Config((1, 1, 16), stages=2), num_sms=1, extended=True),
        Case("depthwise dx, 3x3, cropped", dgrad(2, 24, (9, 21), 3, 1, ((-2, 1), (1, -3))),
             Config((1, 4, 16), 4, 3, stages=4), num_sms=2, extended=True),
        Case("depthwise dx, 5x3, asymmetric padding", dgrad(3, 40, (9, 21), (5, 3), 1, ((1, 3), (2, 0))),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2, stages=5), num_sms=2),
    )),
    Rung("depthwise: weight gradient", (
        Case("depthwise dw, 1x1", wgrad(1, 32, (1, 16), 1), Config((1, 1, 16), stages=2), num_sms=1),
        Case("depthwise dw, 1x2, two fragments a row", wgrad(1, 32, (1, 33), (1, 2)), Config((1, 1, 32), stages=2), num_sms=1,
             extended=True),
        Case("depthwise dw, 3x3 of whole tiles, two blocks of channels, tiles of the cotangent's slots used again",
             wgrad(4, 64, (10, 18), 3), Config((1, 2, 16), 2, 4, stages=5), num_sms=2, extended=True),
        Case("depthwise dw, 7x7 of small images", wgrad(5, 40, (7, 7), 7, 1, 3),
             Config((1, 7, 16), 7, 1, channel_warpgroups=2, stages=4), num_sms=2, extended=True),
        Case("depthwise dw, 5x5, asymmetric padding, negative padding", wgrad(2, 24, (9, 21), 5, 1, ((3, -1), (-2, 5))),
             Config((1, 2, 16), 2, 3, stages=6), num_sms=2, extended=True),
        Case("depthwise dw, 3x3, float32 result, consumers over columns",
             wgrad(3, 24, (9, 37), 3, 1, 1, out_dtype="float32"),
             Config((1, 2, 16), 1, 3, column_warpgroups=3, stages=7), num_sms=2, extended=True),
        Case("depthwise dw, 5x3, odd sizes, more strips than workers", wgrad(3, 40, (9, 37), (5, 3), 1, (2, 1)),
             Config((1, 2, 32), 2, 2, channel_warpgroups=2, stages=5), num_sms=2),
    )),
    Rung("depthwise: bias gradient", (
        Case("depthwise dw, 1x1, bias", wgrad(1, 32, (1, 16), 1, outputs=BOTH), Config((1, 1, 16), stages=2), num_sms=1,
             extended=True),
        Case("depthwise dw, 3x2, bias, cotangents that meet no pixel",
             wgrad(2, 40, (4, 5), (3, 2), 1, ((5, 1), (1, 20)), outputs=BOTH),
             Config((1, 2, 16), 1, 3, channel_warpgroups=2, stages=6), num_sms=2, extended=True),
        Case("depthwise dw, 3x3, bias, three blocks of channels", wgrad(2, 72, (5, 19), 3, 1, 1, outputs=BOTH),
             Config((1, 2, 16), 1, 3, stages=6), num_sms=2),
    )),
)

"""The lowest rungs of weight gradients: tiles, slots and blocks, taps, edges, and parts."""

from pallas_conv.kernels.wgrad.plan import Config

from ...configured import Case
from ..rung import Rung, wgrad

# fmt: off
RUNGS: tuple[Rung, ...] = (
    Rung("wgrad: one tile", (
        Case("dw, one tile of two steps", wgrad(2, (64, 64), (8, 8), 1), Config((1, 8, 8), stages=2), num_sms=1, extended=True),
    )),
    Rung("wgrad: consumers over output channels", (
        Case("dw, two consumers, 64 output channels each", wgrad(2, (64, 128), (8, 8), 1),
             Config((1, 8, 8), m_warpgroups=2, stages=2), num_sms=1, extended=True),
    )),
    Rung("wgrad: slots used again", (
        Case("dw, five steps through two slots", wgrad(5, (64, 64), (8, 8), 1),
             Config((1, 8, 8), stages=2), num_sms=1, extended=True),
    )),
    Rung("wgrad: several blocks", (
        Case("dw, four blocks of one tile", wgrad(3, (128, 128), (8, 8), 1), Config((1, 8, 8), stages=2), extended=True),
    )),
    Rung("wgrad: more tiles than workers", (
        Case("dw, two tiles a worker", wgrad(3, (128, 128), (8, 8), 1), Config((1, 8, 8), stages=2), num_sms=2, extended=True),
    )),
    Rung("wgrad: ring longer than the steps", (
        Case("dw, three consumers over output channels, two tiles a worker", wgrad(1, (128, 192), (8, 8), 1),
             Config((1, 8, 8), m_warpgroups=3, stages=2), num_sms=1, extended=True),
        Case("dw, four tiles a worker, twice as many slots as steps", wgrad(2, (128, 128), (8, 8), 1),
             Config((1, 8, 8)), num_sms=1, extended=True),
    )),
    Rung("wgrad: several loads of channels", (
        Case("dw, two loads of channels, one consumer", wgrad(3, (128, 64), (8, 8), 1),
             Config((1, 8, 8), channel_loads=2, stages=2), num_sms=1, extended=True),
    )),
    Rung("wgrad: consumers over loads of x", (
        Case("dw, two loads of channels, a consumer each", wgrad(3, (128, 64), (8, 8), 1),
             Config((1, 8, 8), channel_loads=2, n_warpgroups=2, stages=2), num_sms=1, extended=True),
        Case("dw, four loads of channels, two consumers, more tiles than blocks", wgrad(2, (512, 64), (8, 8), 1),
             Config((1, 8, 8), channel_loads=4, n_warpgroups=2, stages=2), num_sms=1, extended=True),
    )),
    Rung("wgrad: several taps", (
        Case("dw, 2x2 of whole tiles", wgrad(3, (64, 64), (9, 9), 2), Config((1, 8, 8), stages=2), extended=True),
    )),
    Rung("wgrad: several taps a tile", (
        Case("dw, 2x2, all taps a tile", wgrad(3, (64, 64), (9, 9), 2),
             Config((1, 8, 8), taps_per_tile=4, stages=2), num_sms=1, extended=True),
        Case("dw, 2x2, two taps a consumer", wgrad(3, (64, 64), (9, 9), 2),
             Config((1, 8, 8), taps_per_tile=4, n_warpgroups=2, stages=2), num_sms=1, extended=True),
    )),
    Rung("wgrad: fewer taps in the last tile", (
        Case("dw, 1x3, two taps of two loads a tile, the last one alone", wgrad(2, (128, 64), (8, 10), (1, 3)),
             Config((1, 8, 8), taps_per_tile=2, channel_loads=2, n_warpgroups=2, stages=2), num_sms=2),
    )),
    Rung("wgrad: ragged edges", (
        Case("dw, 1x1 with ragged pixels and channels", wgrad(2, (72, 56), (7, 13), 1),
             Config((1, 8, 8), stages=2), extended=True),
        Case("dw, C=48 K=80, two consumers", wgrad(2, (48, 80), (9, 10), 2),
             Config((1, 8, 8), taps_per_tile=2, m_warpgroups=2, stages=2), num_sms=2, extended=True),
    )),
    Rung("wgrad: padding", (
        Case("dw, negative padding", wgrad(1, (64, 64), (13, 14), 3, 1, ((-2, 1), (1, -3))),
             Config((1, 8, 8), taps_per_tile=3, stages=2), num_sms=3),
    )),
    Rung("wgrad: skipped boxes", (
        Case("dw, 3x3, padding", wgrad(2, (64, 64), (9, 14), 3, 1, 1),
             Config((1, 8, 8), taps_per_tile=3, stages=2), extended=True),
        Case("dw, 3x3 ragged edges, one tap a tile", wgrad(2, (64, 64), (9, 14), 3, 1, 1),
             Config((1, 8, 8), stages=2), extended=True),
        Case("dw, C=1 K=1", wgrad(1, (1, 1), (9, 9), 3, 1, 1), Config((1, 8, 8), taps_per_tile=3, stages=2), extended=True),
        Case("dw, padding only: most windows miss the input", wgrad(1, (16, 24), (3, 3), 3, 1, 5),
             Config((1, 8, 8), taps_per_tile=2, stages=2), num_sms=3, extended=True),
        Case("dw, skipped boxes at both ends", wgrad(1, (64, 64), (16, 8), (7, 1), 1, ((12, 12), 0)),
             Config((1, 8, 8), taps_per_tile=2, stages=3), num_sms=2, extended=True),
        Case("dw, kernel larger than the input", wgrad(2, (32, 32), (2, 9), (5, 3), 1, (2, 1)),
             Config((1, 4, 16), taps_per_tile=4, stages=2), num_sms=2, extended=True),
    )),
    Rung("wgrad: parts", (
        Case("dw, two parts of whole tiles", wgrad(4, (64, 64), (8, 8), 1),
             Config((1, 8, 8), stages=2, split_k=2), num_sms=2, extended=True),
        Case("dw, as many parts as boxes, ragged", wgrad(3, (64, 64), (9, 14), 3, 1, 1),
             Config((1, 8, 8), taps_per_tile=3, stages=2, split_k=12), extended=True),
        Case("dw, seven parts of five boxes: some of none", wgrad(1, (64, 64), (40, 8), (3, 1), 1, ((30, 30), 0)),
             Config((1, 8, 8), taps_per_tile=2, stages=2, split_k=5), num_sms=3),
    )),
)

"""Rungs of steps and tiles that load less or work together: images, halos, registers, blocks beside blocks, clusters."""

from pallas_conv.kernels.wgrad.plan import Config

from ...configured import Case
from ..rung import Rung, wgrad

# fmt: off
RUNGS: tuple[Rung, ...] = (
    Rung("wgrad: several images a step", (
        Case("dw, two images a step", wgrad(4, (64, 64), (4, 8), 1), Config((2, 4, 8), stages=2), num_sms=1, extended=True),
        Case("dw, images as rows, 2x2, the last of them alone", wgrad(33, (64, 64), (3, 3), 2),
             Config((32, 1, 2), taps_per_tile=2, stages=2), num_sms=2),
        Case("dw, inputs of one pixel, which few of the taps meet", wgrad(70, (16, 16), (1, 1), 2, 1, 1),
             Config((64, 1, 1), taps_per_tile=2, stages=2), num_sms=2, extended=True),
        Case("dw, eight images a step, padding, parts", wgrad(20, (64, 64), (7, 7), 3, 1, 1),
             Config((8, 1, 8), taps_per_tile=3, stages=3, split_k=2), extended=True),
    )),
    Rung("wgrad: halo", (
        Case("dw, halo of whole tiles", wgrad(3, (64, 64), (10, 8), (3, 1)),
             Config((1, 8, 8), halo=True, stages=2), num_sms=1, extended=True),
        Case("dw, halo of two taps, two columns of them", wgrad(1, (40, 64), (9, 17), 2, 1, ((1, 1), (0, 1))),
             Config((1, 2, 32), taps_per_tile=2, halo=True, stages=2), num_sms=2, extended=True),
        Case("dw, halo, two consumers over output channels, asymmetric padding",
             wgrad(1, (72, 128), (9, 14), (2, 3), 1, ((0, 1), (2, 1))),
             Config((1, 4, 16), m_warpgroups=2, halo=True, stages=2), extended=True),
        Case("dw, halo of three columns of taps, parts", wgrad(2, (64, 64), (9, 14), 3, 1, 1),
             Config((1, 8, 8), taps_per_tile=3, n_warpgroups=3, halo=True, stages=2, split_k=3)),
    )),
    Rung("wgrad: 128 pixels a step", (
        Case("dw, 128 pixels, one tile", wgrad(3, (64, 64), (8, 16), 1),
             Config((1, 8, 16), stages=2), num_sms=1, extended=True),
        Case("dw, 192 pixels of three images", wgrad(3, (64, 64), (8, 8), 1), Config((3, 8, 8), stages=2), num_sms=1),
        Case("dw, 128 pixels, halo, 3x3, more tiles than blocks", wgrad(1, (128, 64), (17, 14), 3, 1, 1),
             Config((1, 16, 8), halo=True, stages=2), extended=True),
        Case("dw, 256 pixels, 3x3", wgrad(2, (64, 64), (17, 20), (3, 2), 1, 1),
             Config((1, 16, 16), taps_per_tile=2, stages=2), num_sms=2, extended=True),
        Case("dw, 128 pixels, parts, more tiles than blocks", wgrad(2, (72, 64), (17, 14), (1, 3), 1, (0, 1)),
             Config((1, 16, 8), taps_per_tile=2, stages=2, split_k=2), num_sms=3, extended=True),
    )),
    Rung("wgrad: dy in registers", (
        Case("dw, dy in registers, 64 pixels", wgrad(3, (64, 64), (8, 8), 1),
             Config((1, 8, 8), dy_registers=True, stages=2), num_sms=1, extended=True),
        Case("dw, dy in registers, 128 pixels, halo, two consumers", wgrad(2, (64, 128), (17, 14), 3, 1, 1),
             Config((1, 16, 8), m_warpgroups=2, halo=True, dy_registers=True, stages=2), num_sms=2, extended=True),
        Case("dw, dy in registers, two consumers of one dy, halo", wgrad(2, (64, 128), (9, 14), 3, 1, 1),
             Config((1, 8, 8), taps_per_tile=2, n_warpgroups=2, halo=True, dy_registers=True, stages=3), extended=True),
    )),
    Rung("wgrad: narrow x", (
        Case("dw, 32 channels of x", wgrad(3, (32, 64), (8, 8), 1),
             Config((1, 8, 8), 32, dy_registers=True, stages=2), num_sms=1, extended=True),
        Case("dw, 16 channels of x", wgrad(3, (16, 64), (8, 8), 1),
             Config((1, 8, 8), 16, dy_registers=True, stages=2), num_sms=1, extended=True),
        Case("dw, 16 channels of x, halo of three columns of taps, parts", wgrad(2, (16, 64), (9, 14), 3, 1, 1),
             Config((1, 8, 8), 16, taps_per_tile=3, halo=True, dy_registers=True, stages=2, split_k=2)),
        Case("dw, three loads of 32 channels, 128 pixels, 3x1",
             wgrad(2, (96, 64), (9, 20), (3, 1), 1, (1, 0)),
             Config((1, 4, 32), 32, taps_per_tile=1, channel_loads=3, n_warpgroups=3, dy_registers=True, stages=2),
             num_sms=2, extended=True),
    )),
    Rung("wgrad: two blocks an SM", (
        Case("dw, two blocks an SM", wgrad(3, (64, 128), (8, 8), 1), Config((1, 8, 8), stages=2, ctas_per_sm=2), num_sms=1),
        Case("dw, two blocks an SM, dy in registers, halo, more tiles than blocks", wgrad(2, (64, 72), (9, 10), (2, 3), 1, 1),
             Config((1, 8, 8), halo=True, dy_registers=True, stages=2, ctas_per_sm=2), num_sms=1, extended=True),
    )),
    Rung("wgrad: x shared", (
        Case("dw, x shared by two blocks", wgrad(3, (64, 128), (8, 8), 1),
             Config((1, 8, 8), stages=2, multicast="x"), extended=True),
        Case("dw, x shared, dy in registers, three taps", wgrad(1, (64, 128), (9, 14), (1, 3), 1, (0, 1)),
             Config((1, 8, 8), taps_per_tile=3, dy_registers=True, stages=2, multicast="x"), extended=True),
        Case("dw, x shared, halo, 192 output channels, three tiles a worker", wgrad(2, (64, 192), (9, 14), 3, 1, 1),
             Config((1, 8, 8), halo=True, stages=2, multicast="x"), extended=True),
        Case("dw, x shared, dy in registers, two tiles a worker", wgrad(2, (96, 128), (9, 14), (1, 3), 1, (0, 1)),
             Config((1, 8, 8), 32, taps_per_tile=3, dy_registers=True, stages=2, multicast="x"), num_sms=3),
    )),
    Rung("wgrad: dy shared", (
        Case("dw, dy shared by two blocks", wgrad(3, (128, 64), (8, 8), 1),
             Config((1, 8, 8), stages=2, multicast="dy"), extended=True),
        Case("dw, dy shared, through registers, 128 pixels, an odd number of tiles of 32 channels",
             wgrad(1, (96, 64), (17, 14), (1, 3), 1, (0, 1)),
             Config((1, 16, 8), 32, taps_per_tile=3, dy_registers=True, stages=2, multicast="dy"), extended=True),
        Case("dw, dy shared, images as rows, parts", wgrad(66, (72, 40), (2, 2), 2, 1, ((1, 0), (0, 1))),
             Config((64, 1, 1), taps_per_tile=2, stages=2, split_k=2, multicast="dy"), extended=True),
    )),
)

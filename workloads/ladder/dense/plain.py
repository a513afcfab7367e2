"""The lowest rungs: the plain pipeline over images, with its tiles and slots, taps, epilogues, and the input gradient."""

from pallas_conv.kernels.dense.plan import Config

from ...configured import Case
from ..rung import Rung, dgrad, fprop

# fmt: off
RUNGS: tuple[Rung, ...] = (
    Rung("one tile", (
        Case("one tile of two steps", fprop(1, (128, 64), (8, 8), 1),
             Config((1, 8, 8), 64, stages=2, mma_warpgroups=1), num_sms=1),
    )),
    Rung("two consumers", (
        Case("two tiles side by side", fprop(1, (128, 64), (8, 16), 1), Config((1, 8, 8), 64, stages=2), extended=True),
    )),
    Rung("slots used again", (
        Case("five steps through two slots", fprop(1, (320, 64), (8, 16), 1),
             Config((1, 8, 8), 64, stages=2), extended=True),
    )),
    Rung("several blocks", (
        Case("four blocks of one tile a consumer", fprop(2, (128, 128), (8, 16), 1),
             Config((1, 8, 8), 64, stages=2), extended=True),
    )),
    Rung("more tiles than workers", (
        Case("two tiles a worker", fprop(2, (128, 128), (8, 16), 1),
             Config((1, 8, 8), 64, stages=2), num_sms=2, extended=True),
    )),
    Rung("ring longer than the steps", (
        Case("four tiles a worker, twice as many slots as steps", fprop(2, (128, 128), (8, 16), 1),
             Config((1, 8, 8), 64), num_sms=1),
        Case("two tiles a worker, one slot more than steps", fprop(2, (128, 128), (8, 16), 1),
             Config((1, 8, 8), 64, stages=3), num_sms=2, extended=True),
    )),
    Rung("several taps", (
        Case("3x3 of whole tiles", fprop(1, (64, 64), (10, 18), 3), Config((1, 8, 8), 64, stages=2), extended=True),
        Case("3x3 of whole tiles, two tiles a worker", fprop(2, (64, 128), (10, 18), 3),
             Config((1, 8, 8), 64), num_sms=2, extended=True),
    )),
    Rung("ragged edges", (
        Case("1x1 with ragged pixels and channels", fprop(1, (72, 56), (7, 13), 1),
             Config((1, 8, 8), 64, stages=2), extended=True),
    )),
    Rung("skipped taps", (
        Case("one consumer", fprop(1, (64, 64), (7, 9), 3, 1, 1),
             Config((1, 8, 8), 64, stages=2, mma_warpgroups=1), extended=True),
        Case("5x3 dilated 2 and 3", fprop(1, (64, 64), (17, 19), (5, 3), 1, (4, 3), (2, 3)),
             Config((1, 8, 8), 64, stages=3), extended=True),
        Case("padding and dilation 12, taps skipped", fprop(1, (64, 64), (17, 17), 3, 1, 12, 12),
             Config((1, 8, 8), 64, stages=3), extended=True),
    )),
    Rung("no taps skipped", (
        Case("3x3 with padding, no taps skipped", fprop(1, (64, 64), (8, 16), 3, 1, 1),
             Config((1, 8, 8), 64, stages=2, skip_padding=False), extended=True),
    )),
    Rung("bias or activation", (
        Case("1x1, bias and relu", fprop(1, (128, 64), (8, 16), 1, bias=True, activation="relu"),
             Config((1, 8, 8), 64, stages=2), extended=True),
        Case("negative padding", fprop(1, (64, 64), (13, 14), 3, 1, ((-2, 1), (1, -3)), bias=True),
             Config((1, 8, 8), 64, stages=2), extended=True),
        Case("3x3 ragged edges, more steps than twice the stages",
             fprop(2, (64, 64), (9, 14), 3, 1, 1, bias=True, activation="relu"), Config((1, 8, 8), 64, stages=3)),
        Case("gelu of sums without a bias", fprop(2, (64, 48), (9, 14), 3, 1, 1, activation="gelu"),
             Config((1, 8, 8), 64, stages=2)),
    )),
    Rung("several staging buffers", (
        Case("four chunks of channels through two buffers", fprop(1, (128, 128), (8, 16), 1),
             Config((1, 8, 8), 128, stages=2, epi_stages=2), extended=True),
    )),
    Rung("two outputs", (
        Case("1x1, both outputs", fprop(1, (128, 64), (8, 16), 1, bias=True, outputs=("y", "z")),
             Config((1, 8, 8), 64, stages=2), extended=True),
    )),
    Rung("16 columns staged", (
        Case("three chunks of 16 channels", fprop(1, (128, 48), (8, 16), 1),
             Config((1, 8, 8), 48, stages=2), extended=True),
    )),
    Rung("less than 128 bytes a step", (
        Case("steps of 64 bytes", fprop(1, (64, 64), (8, 16), 1),
             Config((1, 8, 8), 64, tile_k=32, stages=2), extended=True),
        Case("steps of 32 bytes", fprop(1, (32, 64), (8, 16), 1),
             Config((1, 8, 8), 64, tile_k=16, stages=2), extended=True),
        Case("z alone", fprop(1, (32, 32), (8, 8), 3, 1, 1, bias=True, activation="gelu", outputs=("z",)),
             Config((1, 8, 8), 32, tile_k=32, stages=2), extended=True),
        Case("kernel larger than the input", fprop(2, (32, 32), (2, 9), (5, 3), 1, (2, 1), bias=True),
             Config((1, 4, 16), 32, tile_k=32, stages=2)),
        Case("dilation 12, taps not skipped", fprop(1, (16, 16), (13, 13), 3, 1, 12, 12),
             Config((1, 8, 8), 16, tile_k=16, stages=3, skip_padding=False), extended=True),
        Case("C=21 K=37, both outputs",
             fprop(1, (21, 37), (9, 8), 3, 1, 1, bias=True, activation="gelu", outputs=("y", "z")),
             Config((1, 8, 8), 48, tile_k=32, stages=2), extended=True),
        Case("both outputs through one buffer",
             fprop(2, (32, 96), (8, 9), 3, 1, 1, bias=True, activation="gelu_tanh", outputs=("y", "z")),
             Config((1, 8, 8), 96, tile_k=32, stages=2), extended=True),
        Case("padding only: most windows miss the input",
             fprop(1, (16, 16), (3, 3), 3, 1, 5, bias=True, activation="sigmoid"),
             Config((1, 8, 8), 16, tile_k=16, stages=2)),
        Case("C=1 K=1", fprop(1, (1, 1), (9, 9), 3, 1, 1, bias=True, activation="leaky_relu"),
             Config((1, 8, 8), 16, tile_k=16, stages=2)),
        Case("both outputs through two buffers",
             fprop(2, (32, 96), (8, 9), 3, 1, 1, bias=True, activation="silu", outputs=("y", "z")),
             Config((1, 8, 8), 96, tile_k=32, stages=2, epi_stages=2), num_sms=2, extended=True),
        Case("three buffers, which tiles start in turn", fprop(2, (16, 64), (9, 15), 1, bias=True, outputs=("y", "z")),
             Config((1, 8, 8), 64, tile_k=16, stages=2, epi_stages=3), num_sms=2),
        Case("one image, a consumer without a tile, whose taps are not those of the first",
             fprop(1, (16, 16), (9, 17), 3, 1, 1, bias=True), Config((1, 8, 8), 16, tile_k=16, stages=2)),
        Case("more tiles than blocks", fprop(2, (32, 80), (9, 17), (3, 1), 1, (1, 0), bias=True, activation="relu"),
             Config((1, 8, 8), 48, tile_k=32, stages=2), num_sms=2, extended=True),
    )),
    Rung("several taps a step", (
        Case("four taps a step of a 7 wide kernel", fprop(1, (3, 32), (8, 12), (3, 7), 1, (1, 3), bias=True),
             Config((1, 8, 8), 32, tile_k=16, taps_per_step=4, stages=2), extended=True),
        Case("C=48 K=80, three taps a step", fprop(2, (48, 80), (7, 9), 3, 1, 1, bias=True, activation="relu"),
             Config((1, 8, 8), 80, tile_k=16, taps_per_step=3, stages=2)),
    )),
    Rung("several images a tile", (
        Case("two images a tile", fprop(4, (128, 64), (4, 8), 1), Config((2, 4, 8), 64, stages=2), extended=True),
        Case("images as rows, 3x3", fprop(70, (32, 64), (2, 2), 3, 1, 1, bias=True, activation="relu"),
             Config((64, 1, 1), 64, tile_k=32, stages=3, mma_warpgroups=1), extended=True),
        Case("inputs of one pixel, which few of the taps meet", fprop(3, (16, 16), (1, 1), 4, 1, 3, bias=True),
             Config((4, 1, 16), 16, tile_k=16, stages=2)),
    )),
    Rung("input gradient", (
        Case("1x1, input gradient", dgrad(1, (64, 128), (8, 16), 1), Config((1, 8, 8), 64, stages=2), extended=True),
        Case("input gradient, 3x3", dgrad(2, (64, 48), (9, 10), 3, 1, 1),
             Config((1, 8, 8), 64, stages=2), extended=True),
        Case("input gradient, asymmetric padding, dilated, odd channels",
             dgrad(1, (21, 37), (9, 10), (2, 3), 1, ((1, 0), (0, 3)), (1, 2)), Config((1, 8, 8), 32, tile_k=32, stages=2)),
        Case("input gradient, negative padding", dgrad(1, (16, 16), (11, 10), 3, 1, ((-2, 0), (1, -3))),
             Config((1, 8, 8), 16, tile_k=16)),
        Case("inputs of one pixel, taps beyond it not skipped", dgrad(66, (16, 16), (2, 3), (2, 3)),
             Config((64, 1, 1), 16, tile_k=16, stages=2, skip_padding=False), extended=True),
    )),
)

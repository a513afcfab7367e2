"""The lowest rungs of depthwise convolutions: blocks, strips, slots and tiles of one tap; then taps, edges, padding."""

from pallas_conv.kernels.depthwise.plan import Config

from ...configured import Case
from ..rung import Rung
from .products import fprop

# fmt: off
RUNGS: tuple[Rung, ...] = (
    Rung("depthwise: one tile", (
        Case("depthwise, one tile of a row", fprop(1, 32, (1, 16), 1), Config((1, 1, 16), stages=2), num_sms=1),
    )),
    Rung("depthwise: several blocks", (
        Case("depthwise, two blocks of a row", fprop(2, 32, (1, 16), 1), Config((1, 1, 16), stages=2), extended=True),
    )),
    Rung("depthwise: more strips than workers", (
        Case("depthwise, two rows of one block", fprop(2, 32, (1, 16), 1), Config((1, 1, 16), stages=2), num_sms=1,
             extended=True),
    )),
    Rung("depthwise: slots used again", (
        Case("depthwise, five rows through two slots", fprop(5, 32, (1, 16), 1), Config((1, 1, 16), stages=2), num_sms=1,
             extended=True),
        Case("depthwise, five rows through one slot", fprop(5, 32, (1, 16), 1), Config((1, 1, 16), stages=1), num_sms=1,
             extended=True),
        Case("depthwise, three rows a block through two slots", fprop(6, 32, (1, 16), 1), Config((1, 1, 16), stages=2),
             num_sms=2, extended=True),
    )),
    Rung("depthwise: several blocks of channels", (
        Case("depthwise, two blocks of channels", fprop(1, 64, (1, 16), 1), Config((1, 1, 16), stages=2), num_sms=2,
             extended=True),
        Case("depthwise, three blocks of channels, more than multiprocessors, slots used again", fprop(4, 96, (1, 16), 1),
             Config((1, 1, 16), stages=2), num_sms=2, extended=True),
    )),
    Rung("depthwise: several tiles a strip", (
        Case("depthwise, five tiles of a row", fprop(1, 32, (5, 16), 1), Config((1, 1, 16), strip_tiles=5, stages=5),
             num_sms=1, extended=True),
        Case("depthwise, two strips of three tiles a block", fprop(4, 32, (3, 16), 1),
             Config((1, 1, 16), strip_tiles=3, stages=2), num_sms=2, extended=True),
    )),
    Rung("depthwise: several rows a tile", (
        Case("depthwise, one tile of four rows", fprop(1, 32, (4, 16), 1), Config((1, 4, 16)), num_sms=1, extended=True),
        Case("depthwise, three tiles of two rows", fprop(2, 32, (6, 16), 1), Config((1, 2, 16), strip_tiles=3),
             extended=True),
    )),
    Rung("depthwise: several rows a chunk", (
        Case("depthwise, one tile of two chunks of two rows", fprop(1, 32, (4, 16), 1), Config((1, 4, 16), 2, stages=2),
             num_sms=1, extended=True),
        Case("depthwise, tiles of a chunk of three rows", fprop(2, 32, (9, 16), 1),
             Config((1, 3, 16), 3, strip_tiles=3, stages=2), num_sms=1, extended=True),
    )),
    Rung("depthwise: several fragments a row", (
        Case("depthwise, a row of four fragments", fprop(1, 32, (1, 64), 1), Config((1, 1, 64), stages=2), num_sms=1,
             extended=True),
        Case("depthwise, two rows of three fragments a chunk", fprop(2, 32, (4, 48), 1),
             Config((1, 2, 48), 2, strip_tiles=2, stages=2), num_sms=1, extended=True),
    )),
    Rung("depthwise: consumers over channels", (
        Case("depthwise, two consumers of channels", fprop(1, 64, (1, 16), 1),
             Config((1, 1, 16), channel_warpgroups=2, stages=2), num_sms=1, extended=True),
        Case("depthwise, three consumers of channels, two blocks of them, more strips than workers",
             fprop(3, 192, (4, 16), 1), Config((1, 2, 16), 2, 2, channel_warpgroups=3, stages=2), num_sms=2),
    )),
    Rung("depthwise: consumers over columns", (
        Case("depthwise, two consumers of columns", fprop(1, 32, (1, 32), 1),
             Config((1, 1, 16), column_warpgroups=2, stages=2), num_sms=1, extended=True),
        Case("depthwise, two consumers of channels, two of columns", fprop(2, 64, (3, 64), 1),
             Config((1, 1, 32), strip_tiles=3, channel_warpgroups=2, column_warpgroups=2, stages=2), num_sms=1,
             extended=True),
    )),
    Rung("depthwise: several taps", (
        Case("depthwise, two taps of a row", fprop(1, 32, (1, 17), (1, 2)), Config((1, 1, 16), stages=2), num_sms=1,
             extended=True),
        Case("depthwise, five taps of a row, two consumers of columns", fprop(3, 32, (2, 36), (1, 5)),
             Config((1, 1, 16), strip_tiles=2, column_warpgroups=2, stages=3), num_sms=1),
    )),
    Rung("depthwise: rows that two tiles read", (
        Case("depthwise, 2x1, one tile", fprop(1, 32, (2, 16), (2, 1)), Config((1, 1, 16), stages=2), num_sms=1, extended=True),
        Case("depthwise, 3x3 of whole tiles", fprop(1, 32, (6, 18), 3), Config((1, 1, 16), strip_tiles=4), num_sms=1,
             extended=True),
        Case("depthwise, 4x2, tiles that read chunks of two before, more strips than workers",
             fprop(3, 32, (7, 17), (4, 2)), Config((1, 1, 16), strip_tiles=4), num_sms=2, extended=True),
        Case("depthwise, 7x7, tiles of two rows, chunks of two", fprop(2, 32, (10, 22), 7),
             Config((1, 2, 16), 2, strip_tiles=2, stages=6), num_sms=1, extended=True),
        Case("depthwise, 5x3, tiles of four rows, more strips than workers", fprop(3, 64, (12, 34), (5, 3)),
             Config((1, 4, 16), 2, 2, channel_warpgroups=2, column_warpgroups=2, stages=5), num_sms=2, extended=True),
    )),
    Rung("depthwise: ragged edges", (
        Case("depthwise, 1x1 of fewer channels", fprop(1, 24, (1, 16), 1), Config((1, 1, 16), stages=2), num_sms=1,
             extended=True),
        Case("depthwise, 3x3, a strip of fewer tiles, half a row of a tile", fprop(2, 32, (9, 21), 3),
             Config((1, 2, 16), strip_tiles=3, stages=5), num_sms=2, extended=True),
        Case("depthwise, 3x3, 40 channels, a consumer without columns", fprop(2, 40, (8, 19), 3),
             Config((1, 4, 16), 2, 2, column_warpgroups=3, stages=6), num_sms=2),
    )),
    Rung("depthwise: padding", (
        Case("depthwise, 3x3, one tile, padding", fprop(1, 32, (1, 16), (1, 3), 1, (0, 1)), Config((1, 1, 16), stages=2),
             num_sms=1, extended=True),
        Case("depthwise, 3x3 of one row", fprop(2, 8, (1, 5), 3, 1, 1), Config((1, 1, 16), stages=3), num_sms=1,
             extended=True),
        Case("depthwise, 7x7 of small images, more strips than workers", fprop(5, 40, (7, 7), 7, 1, 3),
             Config((1, 7, 16), 1, 1, channel_warpgroups=2, stages=20), num_sms=2),
        Case("depthwise, 5x5, asymmetric padding, negative padding", fprop(2, 24, (9, 21), 5, 1, ((3, -1), (-2, 5))),
             Config((1, 2, 16), 2, 3, stages=5), num_sms=2, extended=True),
    )),
    Rung("depthwise: two blocks an SM", (
        Case("depthwise, two blocks an SM", fprop(2, 32, (1, 16), 1), Config((1, 1, 16), stages=2, ctas_per_sm=2),
             num_sms=1, extended=True),
        Case("depthwise, 3x3, two blocks an SM", fprop(5, 40, (9, 21), 3, 1, 1),
             Config((1, 2, 16), 2, 3, channel_warpgroups=2, ctas_per_sm=2), num_sms=2, extended=True),
    )),
)

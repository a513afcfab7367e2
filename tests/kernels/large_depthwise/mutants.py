"""Cases whose large-kernel depthwise kernel is broken on purpose, for the interpreter and the emulator."""

from pallas_conv.kernels.large_depthwise.plan import Config
from tests.kernels.cases import Case
from tests.kernels.large_depthwise.proving import large

MUTANT = Case(
    "large depthwise mutant",
    large("fprop", 2, 12, (13, 35), (11, 17), 1, (5, 8), bias=True),
    Config(32, 24, 2),
    num_sms=1,
)
# Of eight channels and whole rows: a box of results is so many bytes in a row, which must not be copied as such.
FLIPPED = Case(
    "flipped large depthwise mutant",
    large("dgrad", 2, 8, (17, 32), (11, 10), 1, 5),
    Config(32, 16, 2),
    num_sms=1,
)
WEIGHTS = Case(
    "large depthwise mutant of a weight gradient",
    large("wgrad", 2, 12, (13, 24), (11, 17), 1, (5, 8), outputs=("dw", "db")),
    Config(32, 8, 2),
    num_sms=2,
)

"""Cases whose pointwise kernel is broken on purpose, for the interpreter and the emulator."""

from pallas_conv.kernels.pointwise.plan import Config
from tests.kernels.cases import Case
from workloads.ladder.pointwise import ALL, bwd

MUTANT = Case("pointwise mutant", bwd(4, (40, 72), (8, 8)), Config((1, 8, 16)), num_sms=1)
# A ragged row of blocks for each consumer, and two parts of the pixels.
PREPARED = Case(
    "pointwise mutant with a derivative",
    bwd(5, (40, 72), (7, 8), outputs=ALL, activation="silu"),
    Config((2, 8, 8), split_k=2),
    num_sms=2,
)
# Consumers keep all slots of a step.
KEEPING = Case(
    "pointwise mutant with two rows and columns of blocks",
    bwd(3, (72, 72), (8, 16), outputs=ALL, activation="relu"),
    Config((1, 8, 16), 128, stages=3),
    num_sms=1,
)
SUMMING = Case(
    "pointwise mutant with a bias gradient", bwd(4, (72, 24), (8, 16), outputs=ALL), Config((1, 8, 16)), num_sms=2
)
MODELS = Case("pointwise mutant of models", bwd(2, (24, 24), (8, 8), models=2), Config((2, 8, 8)), num_sms=2)

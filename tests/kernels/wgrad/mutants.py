"""Cases whose weight-gradient kernel is broken on purpose, and ways to break it, for the interpreter and the emulator."""

import dataclasses

import jax.numpy as jnp
import pytest

from pallas_conv.kernels.scalars import Span
from pallas_conv.kernels.wgrad.plan import Config
from pallas_conv.kernels.wgrad.schedule import Schedule
from tests.kernels import cases
from tests.kernels.cases import Case

MUTANT = Case(
    "mutant weight gradient",
    cases.product("wgrad", 2, (32, 64), (9, 9), (3, 2), 1, 1),
    Config((1, 8, 8), taps_per_tile=2, stages=2),
    num_sms=2,
)
HALO = dataclasses.replace(
    MUTANT, name="halo mutant", config=Config((1, 8, 8), taps_per_tile=2, n_warpgroups=2, halo=True, stages=2)
)
PARTS = dataclasses.replace(MUTANT, name="mutant in parts", config=dataclasses.replace(MUTANT.config, split_k=3))
REGISTERS = dataclasses.replace(
    MUTANT, name="mutant with dy in registers", config=dataclasses.replace(HALO.config, dy_registers=True)
)
PIECES = dataclasses.replace(
    MUTANT,
    name="mutant of pieces",
    product=cases.product("wgrad", 1, (8, 8), (5, 7), (2, 1), 1, (1, 0), models=2, dtype="float32"),
    config=Config((1, 8, 8), stages=2),
)
FLIPPED = Case(
    "flipped mutant of a weight gradient",
    cases.product("wgrad", 1, (32, 32), (6, 7), 3, 1, 1),
    Config((1, 8, 8), taps_per_tile=3, stages=2, transposed=True),
    num_sms=2,
)
SHARED = Case(
    "mutant that shares x",
    cases.product("wgrad", 2, (32, 128), (8, 8), 1),
    Config((1, 8, 8), stages=2, multicast="x"),
    num_sms=2,
)
SIDE_BY_SIDE = Case(
    "mutant of two consumers",
    cases.product("wgrad", 2, (32, 128), (8, 8), 1),
    Config((1, 8, 8), m_warpgroups=2, stages=2),
    num_sms=1,
)
BIAS = dataclasses.replace(
    MUTANT,
    name="mutant with a bias gradient",
    product=dataclasses.replace(MUTANT.product, outputs=("dw", "db")),
    config=dataclasses.replace(MUTANT.config, dy_registers=True),
)
SKIPPING = Case(
    "mutant with a bias gradient of boxes that no tap meets",
    cases.product("wgrad", 1, (8, 16), (8, 8), (2, 1), 1, ((17, 8), 0), outputs=("dw", "db")),
    Config((1, 8, 8), 16, dy_registers=True, stages=2),
    num_sms=2,
)
SPACE_TO_DEPTH = Case(
    "mutant of strides and outputs as channels",
    cases.product("wgrad", 1, (3, 16), (9, 15), 3, 2, 1),
    Config((1, 8, 8), taps_per_tile=3, stages=2, space_to_depth=True, row_outputs=2),
    num_sms=2,
)


def drop_a_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one that a tile walks."""
    reduction = Schedule.reduction
    shorter = lambda s: Span(s.first, jnp.maximum(s.last - 1, s.first))
    monkeypatch.setattr(
        Schedule, "reduction", lambda *at: (found := reduction(*at))._replace(steps=shorter(found.steps))
    )

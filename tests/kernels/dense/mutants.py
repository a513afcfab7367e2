"""Cases whose dense kernel is broken on purpose, and ways to break it, for the interpreter's proofs and for the emulator's."""

import dataclasses

import jax.numpy as jnp
import pytest

from pallas_conv.kernels.dense.plan import Config
from pallas_conv.kernels.dense.schedule import Schedule
from pallas_conv.kernels.scalars import Span
from tests.kernels import cases
from tests.kernels.cases import Case

MUTANT = Case(
    "mutant",
    cases.product("fprop", 2, (32, 64), (9, 9), (3, 2), 1, 1, bias=True, outputs=("y", "z")),
    Config((1, 8, 8), 64, tile_k=32, stages=2, mma_warpgroups=1),
    num_sms=2,
)
TRANSPOSED = Case(
    "transposed mutant",
    cases.product("fprop", 1, (32, 32), (5, 6), (3, 2), 1, 1, input_dilation=(2, 3), bias=True),
    Config((1, 8, 8), 32, tile_k=32, stages=2, mma_warpgroups=1),
    num_sms=2,
)
FLIPPED = Case(
    "flipped mutant",
    cases.product("dgrad", 1, (32, 32), (6, 7), 3, 1, 1),
    Config((1, 8, 8), 32, tile_k=32, stages=2, mma_warpgroups=1),
    num_sms=2,
)
ADDING = dataclasses.replace(MUTANT, name="adding mutant", product=dataclasses.replace(MUTANT.product, residual=True))
AHEAD = dataclasses.replace(
    ADDING, name="adding ahead", config=dataclasses.replace(MUTANT.config, tile_n=48, epi_stages=5)
)
NEXT = dataclasses.replace(
    AHEAD,
    name="adding the next",
    product=dataclasses.replace(AHEAD.product, outputs=("y",)),
    config=dataclasses.replace(AHEAD.config, epi_stages=2),
)
KEEPING = dataclasses.replace(MUTANT, name="keeping mutant", config=dataclasses.replace(MUTANT.config, resident=True))


def drop_a_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one that a tile needs, of every dimension."""
    spans = Schedule.tap_spans
    shorter = lambda self, tile: [Span(s.first, jnp.maximum(s.last - 1, s.first)) for s in spans(self, tile)]
    monkeypatch.setattr(Schedule, "tap_spans", shorter)

"""Can the proofs of the dense kernel fail? Break the kernel in ways that are easily come by, and see each one found.

The interpreter checks copies and register accesses of shared memory for races, but not what wgmma reads: there a broken
kernel must show as wrong numbers, or as a barrier that nobody waited for.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import mosaic
from pallas_conv.kernels.dense import operands as dense_operands
from pallas_conv.kernels.dense import sm90
from pallas_conv.kernels.dense.schedule import Schedule
from pallas_conv.kernels.scalars import Span
from pallas_conv.kernels.store import TileStore
from tests.kernels.dense.mutants import (
    ADDING,
    AHEAD,
    FLIPPED,
    KEEPING,
    MUTANT,
    NEXT,
    TRANSPOSED,
    drop_a_tap,
)
from tests.kernels.dense.proving import prove, run
from tests.kernels.mutating import RACE, REFUSED, UNORDERED, WRONG, nothing, release_before_multiplying, within


@pytest.mark.parametrize(
    "case",
    [
        MUTANT,
        ADDING,
        *(pytest.param(c, marks=pytest.mark.extended) for c in (TRANSPOSED, FLIPPED, KEEPING, AHEAD, NEXT)),
    ],
    ids=str,
)
def test_unbroken(case):
    prove(case)


def test_consumers_that_do_not_wait_for_their_loads(monkeypatch):
    within(monkeypatch, sm90._Kernel, "_consume", barrier_wait=nothing)
    with UNORDERED:
        prove(MUTANT)


def test_resident_weights_are_waited_for(monkeypatch):
    """The program shows that resident weights are waited for. The interpreter would not: it loads at once."""
    wait, waited = mosaic.barrier_wait, []

    def listed(barrier):
        waited.append(barrier)
        wait(barrier)

    within(monkeypatch, sm90._Kernel, "_consume", barrier_wait=listed)
    for case, count in ((MUTANT, 0), (KEEPING, 1)):
        waited.clear()
        jax.eval_shape(case.kernel.run, *case.operands())
        assert sum(not hasattr(barrier, "transforms") for barrier in waited) == count  # the one that is no slot's


def test_resident_weights_of_another_tap(monkeypatch):
    weights_at = sm90._Kernel._weights_at
    first_tap = lambda self, tile, taps: [jnp.int32(0), *weights_at(self, tile, taps)[1:]]
    monkeypatch.setattr(sm90._Kernel, "_weights_at", first_tap)
    with WRONG:
        prove(KEEPING)


def test_a_producer_that_does_not_wait_for_free_slots(monkeypatch):
    within(monkeypatch, sm90._Kernel, "_produce", barrier_wait=nothing)
    with UNORDERED:
        prove(MUTANT)


def test_a_slot_released_before_it_is_multiplied(monkeypatch):
    release_before_multiplying(monkeypatch, sm90._Kernel, MUTANT.config.stages)
    with WRONG:
        prove(MUTANT)


def test_weights_in_the_order_of_the_kernel_instead_of_the_offsets(monkeypatch):
    monkeypatch.setattr(dense_operands, "reordered", lambda w, axis, order: w)
    with WRONG:
        prove(FLIPPED)


def test_phases_mixed_up(monkeypatch):
    tile = Schedule.tile

    def always_the_first(self, worker, i):
        found = tile(self, worker, i)
        return found._replace(phase=[found.phase[0], jnp.int32(0)])

    monkeypatch.setattr(Schedule, "tile", always_the_first)
    with RACE:  # two tiles store to the same phase
        prove(TRANSPOSED)


def test_a_staging_buffer_overwritten_too_early_is_a_race(monkeypatch):
    wait = mosaic.wait_smem_to_gmem
    only_the_last = lambda n, wait_read_only=False: None if wait_read_only else wait(n)
    monkeypatch.setattr(mosaic, "wait_smem_to_gmem", only_the_last)
    with RACE:
        prove(MUTANT)


def test_a_residual_that_is_not_waited_for(monkeypatch):
    within(monkeypatch, TileStore, "store", barrier_wait=nothing)
    with UNORDERED:
        prove(ADDING)


def test_a_residual_loaded_over_what_is_still_being_stored_is_a_race(monkeypatch):
    copy, wait, waited = mosaic.copy_gmem_to_smem, mosaic.wait_smem_to_gmem, []

    def not_before_a_load(n, wait_read_only=False):
        if wait_read_only:
            waited.append(n)
        else:
            wait(n)

    def load_then_wait(*args, **how):
        copy(*args, **how)
        while waited:
            wait(waited.pop(), wait_read_only=True)

    within(monkeypatch, TileStore, "store", wait_smem_to_gmem=not_before_a_load, copy_gmem_to_smem=load_then_wait)
    with RACE:
        prove(ADDING)


@pytest.mark.extended
def test_a_residual_asked_for_ahead_over_what_is_still_being_stored_is_a_race(monkeypatch):
    within(monkeypatch, TileStore, "prefetch_residual", wait_smem_to_gmem=nothing)
    with RACE:
        prove(AHEAD)


@pytest.mark.extended
def test_a_residual_loaded_for_a_later_chunk_over_what_is_still_being_stored_is_a_race(monkeypatch):
    within(monkeypatch, TileStore, "_residual", wait_smem_to_gmem=nothing)
    with RACE:
        prove(NEXT)


def test_a_kernel_that_leaves_stores_behind_is_refused_and_the_next_one_runs(monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(mosaic, "wait_smem_to_gmem", lambda *_, **__: None)
        with pytest.raises(REFUSED, match=r"Not all copy_smem_to_gmem|RACE DETECTED"):
            prove(MUTANT)
    prove(MUTANT)


def test_a_dropped_tap_is_wrong(monkeypatch):
    drop_a_tap(monkeypatch)
    with WRONG:
        prove(MUTANT)


@pytest.mark.extended
def test_a_dropped_channel_step_of_a_part_is_wrong(monkeypatch):
    parts = dataclasses.replace(MUTANT, config=dataclasses.replace(MUTANT.config, tile_k=16, split_k=2))
    prove(parts)
    whole = Schedule.channel_span
    shorter = lambda self, tile: Span(whole(self, tile).first, whole(self, tile).last - tile.k_part)
    monkeypatch.setattr(Schedule, "channel_span", shorter)
    with WRONG:
        prove(parts)


def test_what_is_not_written_shows(monkeypatch):
    """The interpreter hands out memory full of NaN: no output is right by accident."""
    monkeypatch.setattr(mosaic, "copy_smem_to_gmem", lambda *_: None)
    for out in run(MUTANT, MUTANT.operands()):
        assert np.isnan(np.asarray(out, np.float32)).all()

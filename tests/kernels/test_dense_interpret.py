"""The dense kernel in Mosaic's interpreter, with race detection, against float64.

The bound is relative to what XLA's own convolution makes of the same operands, see `cases.check`.
"""

import dataclasses
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv.kernels import config, mosaic, schedule, support
from pallas_conv.kernels.config import Config
from pallas_conv.kernels.launch import launch
from tests.kernels import cases
from tests.kernels.cases import Case


def run(case: Case, operands: list[jax.Array]) -> list[jax.Array]:
    p, cfg = case.product, case.config
    return mosaic.run_interpreted(
        lambda *a: launch(p, cfg, *a, num_sms=case.num_sms, interpret=True), *operands, detect_races=True
    )


def prove(case: Case) -> None:
    operands = case.operands()
    cases.check(case.product, run(case, operands), operands)


@pytest.mark.parametrize("case", cases.small(), ids=str)
def test_served(case):
    assert support.reasons(case.product, (9, 0)) == ()
    prove(case)


@pytest.mark.parametrize("activation", [a for a in support.ACTIVATIONS if a])
def test_activation(activation):
    product = cases.product("fprop", 1, (16, 32), (8, 8), 1, bias=True, activation=activation, outputs=("y", "z"))
    prove(Case(f"activation {activation}", product, Config((1, 8, 8), 32, bk=16, stages=2, consumers=1), num_sms=1))


def test_the_chosen_configuration_runs():
    product = cases.product("fprop", 2, (24, 40), (9, 10), 3, 1, 1, bias=True, activation="relu")
    prove(Case("chosen", product, config.choose(product, 4)))


def test_plain_launch_needs_no_context_and_jits():
    case = next(case for case in cases.small() if case.name == "one consumer")
    operands = case.operands()
    run_jitted = jax.jit(lambda *a: launch(case.product, case.config, *a, num_sms=2, interpret=True))
    cases.check(case.product, run_jitted(*operands), operands)


def generated(seed: int) -> Case:
    """A random product that is served, and a random configuration that is legal for it."""
    rng = random.Random(seed)
    while True:
        pick, nd = rng.choice, rng.choice((1, 2, 2, 2, 3))
        each = lambda lo, hi: tuple(rng.randint(lo, hi) for _ in range(nd))
        pair = lambda lo, hi: (rng.randint(lo, hi), rng.randint(lo, hi))
        size = each(1, (60, 16, 8)[nd - 1])
        role = pick(("fprop", "fprop", "dgrad"))
        groups = pick((1, 1, 1, 2, 3))
        dtype = pick(("bfloat16", "bfloat16", "float16", "float32"))
        epilogue = {}
        if role == "fprop":
            outputs = pick(support.OUTPUTS)
            epilogue = {"bias": pick((True, False)), "activation": pick(support.ACTIVATIONS), "outputs": outputs}
        p = cases.product(
            role,
            rng.randint(1, 3) if rng.random() < 0.8 else rng.randint(32, 70),
            pair(1, 100) if groups == 1 else (groups * rng.randint(16, 40), groups * rng.randint(16, 40)),
            size,
            each(1, 5),
            padding=tuple(pair(-2, 5) for _ in range(nd)),
            dilation=each(1, 3),
            stride=pick((1, 1, each(1, 3))),
            input_dilation=pick((1, 1, each(1, 3))),
            groups=groups,
            models=pick((None, None, None, 2)),
            dtype=dtype,
            out_dtype=pick((dtype, dtype, "float32")),
            **epilogue,
        )
        if support.reasons(p, support.CAPABILITY):
            continue
        cfg = Config(
            box=pick(list(config.boxes(64, nd))),
            bn=pick((16, 48, 64, 80)),
            bk=pick((8, 16, 32, 64)),
            taps=pick((1, 1, 2, 3)),
            halo=pick((True, False)),
            unfold=pick((True, False)) and p.in_channels + p.out_channels < 40,
            stages=pick((2, 3)),
            consumers=pick((1, 2)),
            cluster=pick((1, 1, 2)),
            split=pick((1, 1, 2, 3)),
            out_bufs=pick((1, 2, 3)),
            skip=pick((True, True, False)),
        )
        problem = config.Problem.of(p)
        if config.illegal(problem, cfg):
            continue
        # The interpreter multiplies a line of pixels at a time: leave out what would take it minutes.
        if config.executed_macs(problem, cfg) <= 800 * cfg.box[-1] * cfg.bn * cfg.bk:
            return Case(f"generated {seed}", p, cfg, num_sms=rng.randint(2, 5))


@pytest.mark.parametrize("seed", range(4))
def test_generated(seed):
    prove(generated(seed))


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(4, 44))
def test_generated_extended(seed):
    prove(generated(seed))


# Can these tests fail? Break the kernel, and see.

MUTANT = Case(
    "mutant",
    cases.product("fprop", 2, (32, 64), (9, 9), (3, 2), 1, 1, bias=True, outputs=("y", "z")),
    Config((1, 8, 8), 64, bk=32, stages=2, consumers=1),
    num_sms=2,
)


def test_a_staging_buffer_overwritten_too_early_is_a_race(monkeypatch):
    wait = mosaic.wait_smem_to_gmem
    only_the_last = lambda n, wait_read_only=False: None if wait_read_only else wait(n)
    monkeypatch.setattr(mosaic, "wait_smem_to_gmem", only_the_last)
    with pytest.raises(mosaic.RaceError, match="RACE DETECTED"):
        prove(MUTANT)


def test_a_kernel_that_leaves_stores_behind_is_refused_and_the_next_one_runs(monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(mosaic, "wait_smem_to_gmem", lambda *_, **__: None)
        refused = (jax.errors.JaxRuntimeError, mosaic.RaceError)  # JAX 0.12 finds the race first
        with pytest.raises(refused, match=r"Not all copy_smem_to_gmem|RACE DETECTED"):
            prove(MUTANT)
    prove(MUTANT)


def test_a_dropped_tap_is_wrong(monkeypatch):
    spans = schedule.Schedule.tap_spans
    shorter = lambda self, tile: [schedule.Span(s.first, jnp.maximum(s.last - 1, s.first)) for s in spans(self, tile)]
    monkeypatch.setattr(schedule.Schedule, "tap_spans", shorter)
    with pytest.raises(AssertionError, match="right=False"):
        prove(MUTANT)


def test_a_dropped_channel_step_of_a_part_is_wrong(monkeypatch):
    parts = dataclasses.replace(MUTANT, config=dataclasses.replace(MUTANT.config, bk=16, split=2))
    prove(parts)
    whole = schedule.Schedule.channel_span
    shorter = lambda self, tile: schedule.Span(whole(self, tile).first, whole(self, tile).last - tile.part)
    monkeypatch.setattr(schedule.Schedule, "channel_span", shorter)
    with pytest.raises(AssertionError, match="right=False"):
        prove(parts)


def test_what_is_not_written_shows(monkeypatch):
    """The interpreter hands out memory full of NaN: no output is right by accident."""
    monkeypatch.setattr(mosaic, "copy_smem_to_gmem", lambda *_: None)
    for out in run(MUTANT, MUTANT.operands()):
        assert np.isnan(np.asarray(out, np.float32)).all()

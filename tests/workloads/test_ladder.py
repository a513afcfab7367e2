"""The ladder is one: every rung adds one feature to those below, so that the lowest that fails names what is broken."""

import subprocess
import sys

import pytest

from compiled import kernels
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.dense.legal import illegal
from pallas_conv.kernels.dense.plan import Problem, tiling
from workloads import paths
from workloads.ladder import CASES, LADDER
from workloads.ladder.features import FEATURES, features

EVERY = pytest.mark.parametrize("case", CASES, ids=str)


def test_every_feature_has_a_rung_in_the_order_of_the_features():
    assert [rung.feature for rung in LADDER] == list(FEATURES)


def test_each_rung_adds_one_feature():
    known: set[str] = set()
    for feature, cases in LADDER:
        assert set(features(cases[0])) - known == {feature}, cases[0].name
        known.add(feature)
        for case in cases:
            assert features(case)[-1] == feature, case.name
            assert set(features(case)) <= known, case.name


def test_within_a_rung_cases_grow():
    for feature, cases in LADDER:
        counts = [len(features(case)) for case in cases]
        assert counts == sorted(counts), feature


def test_names_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)


@EVERY
def test_cases_are_served(case):
    problem = Problem.of(case.product)
    assert case.kernel.family is DENSE
    assert illegal(problem, case.config, case.kernel.gpu) is None
    assert tiling(problem, case.config).workers(case.num_sms) > 0


@pytest.mark.parametrize(
    "together",
    [
        ("128 pixels a warpgroup", "more tiles than workers"),
        ("128 pixels a warpgroup", "more tiles than workers", "halo"),
        ("128 pixels a warpgroup", "more tiles than workers", "cluster"),
        ("128 pixels a warpgroup", "more tiles than workers", "halo", "cluster"),
        ("128 pixels a warpgroup", "more tiles than workers", "several images a tile", "cluster"),
        ("resident weights", "more tiles than workers"),
        ("resident weights", "more tiles than workers", "halo", "128 pixels a warpgroup"),
        ("residual", "more tiles than workers", "ring longer than the steps"),
        ("residual", "more tiles than workers", "halo", "128 pixels a warpgroup"),
        ("split channels", "more tiles than workers", "cluster"),
        ("TF32", "more tiles than workers", "halo", "cluster"),
    ],
    ids=", ".join,
)
def test_features_that_meet_in_large_products_meet_here(together):
    assert any(set(together) <= set(features(case)) for case in CASES)


def test_hardware_scripts_need_no_pytest():
    code = "import sys, workloads.ladder, workloads.paths; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


@pytest.mark.aot
@pytest.mark.extended
@pytest.mark.parametrize("case", [*CASES, *paths.cases()], ids=str)
def test_cases_compile_without_spills(case):
    _, used = kernels.compiled(case.product, case.config)
    assert used.spills == 0, used.log
    assert used.registers * 128 * (case.config.mma_warpgroups + 1) * case.config.ctas_per_sm <= 65536, used.log

"""The ladder is one: every rung adds one feature to those below, so that the lowest that fails names what is broken."""

import subprocess
import sys

import pytest

from compiled import kernels
from pallas_conv.kernels import families
from workloads import paths
from workloads.ladder import CASES, FAMILIES, LADDER

EVERY = pytest.mark.parametrize("case", CASES, ids=str)
EACH = pytest.mark.parametrize("family", FAMILIES)


def test_every_family_has_a_ladder():
    assert FAMILIES.keys() == {family.name for family in families.FAMILIES}


@EACH
def test_every_feature_has_a_rung_in_the_order_of_the_features(family):
    assert [rung.feature for rung in FAMILIES[family].LADDER] == list(FAMILIES[family].FEATURES)


def test_names_of_rungs_are_unique():
    assert len({rung.feature for rung in LADDER}) == len(LADDER)


@EACH
def test_each_rung_adds_one_feature(family):
    known: set[str] = set()
    features = FAMILIES[family].features
    for feature, cases in FAMILIES[family].LADDER:
        assert set(features(cases[0])) - known == {feature}, cases[0].name
        known.add(feature)
        for case in cases:
            assert features(case)[-1] == feature, case.name
            assert set(features(case)) <= known, case.name


@EACH
def test_within_a_rung_cases_grow(family):
    for feature, cases in FAMILIES[family].LADDER:
        counts = [len(FAMILIES[family].features(case)) for case in cases]
        assert counts == sorted(counts), feature


def test_names_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)


@EVERY
def test_cases_are_served(case):
    kernel = case.kernel
    problem = kernel.family.problem(case.product)
    assert case in FAMILIES[kernel.family.name].CASES
    assert kernel.family.illegal(problem, case.config, kernel.gpu) is None
    assert kernel.family.work(problem, case.config, kernel.gpu).sms > 0


@pytest.mark.parametrize(
    ("family", "together"),
    [
        ("dense", ("128 pixels a warpgroup", "more tiles than workers")),
        ("dense", ("128 pixels a warpgroup", "more tiles than workers", "halo")),
        ("dense", ("128 pixels a warpgroup", "more tiles than workers", "cluster")),
        ("dense", ("128 pixels a warpgroup", "more tiles than workers", "halo", "cluster")),
        ("dense", ("128 pixels a warpgroup", "more tiles than workers", "several images a tile", "cluster")),
        ("dense", ("resident weights", "more tiles than workers")),
        ("dense", ("resident weights", "more tiles than workers", "halo", "128 pixels a warpgroup")),
        ("dense", ("residual", "more tiles than workers", "ring longer than the steps")),
        ("dense", ("residual", "more tiles than workers", "halo", "128 pixels a warpgroup")),
        ("dense", ("split channels", "more tiles than workers", "cluster")),
        ("dense", ("TF32", "more tiles than workers", "halo", "cluster")),
        ("wgrad", ("128 pixels a step", "more tiles than workers", "halo", "dy in registers")),
        ("wgrad", ("128 pixels a step", "more tiles than workers", "parts")),
        ("wgrad", ("dy in registers", "more tiles than workers", "x shared")),
        ("wgrad", ("dy in registers", "128 pixels a step", "dy shared")),
        ("wgrad", ("halo", "more tiles than workers", "x shared")),
        ("wgrad", ("halo", "parts", "narrow x", "groups")),
        ("wgrad", ("several images a step", "parts", "dy shared")),
        ("wgrad", ("transposed", "x shared", "groups")),
        ("wgrad", ("three products", "parts", "examples")),
    ],
    ids=str,
)
def test_features_that_meet_in_large_products_meet_here(family, together):
    prefix = "" if family == "dense" else f"{family}: "
    wanted = {prefix + feature for feature in together}
    assert any(wanted <= set(FAMILIES[family].features(case)) for case in FAMILIES[family].CASES)


def test_hardware_scripts_need_no_pytest():
    code = "import sys, workloads.ladder, workloads.paths; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=100).returncode == 0


@pytest.mark.aot
@pytest.mark.extended
@pytest.mark.parametrize("case", [*CASES, *paths.cases()], ids=str)
def test_cases_compile_without_spills(case):
    _, used = kernels.compiled(case.product, case.config)
    assert used.spills == 0, used.log
    family = case.kernel.family
    work = family.work(family.problem(case.product), case.config, case.kernel.gpu)
    warpgroups = (work.mma_warpgroups + 1) * work.ctas_per_sm
    assert used.registers * 128 * warpgroups <= case.kernel.gpu.generation.registers, used.log

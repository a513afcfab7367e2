"""The probes compile for a GPU, the interpreter agrees with those it can run, and each of them can fail."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from bench.probes import check, cut, probes
from compiled.aot import compile_for

FAMILY = {re.match("[a-z]+(_[a-z]+)?", p.name)[0]: p.name for p in probes()}  # its last member stands for each


def some(chosen):
    """The default run takes one of each family, the extended one all."""
    marks = lambda probe: () if probe.name in FAMILY.values() else pytest.mark.extended
    return [pytest.param(probe, id=probe.name, marks=marks(probe)) for probe in chosen]


@pytest.mark.aot
@pytest.mark.parametrize("probe", some(probes()))
def test_compiles_for_hopper(probe):
    shapes = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in probe.operands)
    assert "custom-call" in compile_for("h100", probe.kernel(False), *shapes).as_text()


@pytest.mark.parametrize("probe", some(p for p in probes() if p.interpretable))
def test_interpreter_agrees(probe):
    name, passed, detail = check(probe, interpret=True)
    assert passed, f"{name}: {detail}"


@pytest.mark.parametrize("probe", some(p for p in probes() if p.interpretable))
def test_a_probe_fails_on_other_numbers(probe):
    first, *rest = probe.operands
    others = np.full_like(first, 101)  # which no operand holds
    _, passed, detail = check(dataclasses.replace(probe, operands=(others, *rest)), interpret=True)
    assert not passed
    assert ": 101.0 instead of" in detail


def test_what_probes_expect_is_never_what_poison_or_an_idle_kernel_leaves():
    for probe in probes():
        assert not np.isnan(probe.expected.astype(np.float32)).any()
        assert np.count_nonzero(probe.expected) > 0
    assert len({p.name for p in probes()}) == len(probes())


def test_boxes_outside_the_array_expect_zeros_there_and_only_there():
    before = [p for p in probes() if p.name.startswith("oob_before")]
    assert len(before) == 5
    for probe in before:
        starts = probe.operands[1]
        assert (starts < 0).any()
        for start, expected in zip(starts, probe.expected, strict=True):
            assert (expected == 0).any() == (start < 0).any()


def test_cut():
    x = np.arange(1, 13).reshape(3, 4)
    np.testing.assert_array_equal(cut(x, (-1, 2), (2, 3)), [[0, 0, 0], [3, 4, 0]])
    np.testing.assert_array_equal(cut(x, (("i", 1), -2), (4,)), [0, 0, 5, 6])
    np.testing.assert_array_equal(cut(x, (("i", 3), 0), (4,)), [0, 0, 0, 0])

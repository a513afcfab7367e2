"""The family that serves a product on a GPU, and every reason where none does."""

import copy
import pickle

import pytest

from pallas_conv.kernels import families
from tests.kernels import together, toy
from tests.kernels.products import product
from workloads import ladder

HOPPER = (9, 0)


@pytest.mark.parametrize("case", ladder.CASES, ids=str)
def test_served_on_hopper_only(case):
    assert families.reasons(case.product, HOPPER) == ()
    assert families.find(case.product, HOPPER) is families.serving(case.product)
    for capability in (None, (8, 0), (10, 0)):
        (reason,) = families.reasons(case.product, capability)
        assert "compute capability 9.0 (Hopper)" in reason


def test_all_reasons_are_listed():
    of = product(channels=(24, 72), kernel=65, size=(70, 70), dtype="float64", activation="mish")
    assert len(families.reasons(of, None)) == 4


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_a_family_serves_its_samples_and_is_found_by_name(family):
    assert families.named(family.name) is family
    assert family.samples
    for sample in family.samples:
        assert sample.role in family.roles
        assert families.serving(sample) is family
        assert families.size(sample) == family.size(sample)


@pytest.mark.parametrize("family", [*families.FAMILIES, toy.TOY, together.TOGETHER], ids=lambda family: family.name)
def test_a_family_that_is_pickled_or_copied_stays_the_same(family):
    assert pickle.loads(pickle.dumps(family)) is family
    assert copy.deepcopy(family) is family


def test_what_no_family_serves():
    with pytest.raises(KeyError):
        families.named("another")
    for role in ("fprop", "dgrad", "wgrad"):
        no_kernel = product(role=role, size=(9, 9, 9, 9))
        assert families.serving(no_kernel) is None
        with pytest.raises(ValueError, match="no kernel serves"):
            families.size(no_kernel)
    assert families.serving(product(role="bwd")) is None


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_every_generation_of_a_family_has_a_body(family):
    for capability in family.bodies:
        assert callable(families.body(family, capability).run)

"""One door to all kernels: found, configured, asked, without Pallas until one runs."""

import dataclasses
import subprocess
import sys

import pytest

from pallas_conv.kernels import families, serve
from pallas_conv.kernels.family import Facts
from pallas_conv.kernels.gpu import Gpu
from tests.kernels.products import product
from workloads import ladder

PRODUCT = product(bias=True, activation="relu")


def test_a_kernel_answers_as_its_family_does():
    family, gpu = families.serving(PRODUCT), Gpu(4)
    kernel = serve.kernel(PRODUCT, gpu)
    config = serve.choose(PRODUCT, gpu)
    assert (kernel.family, kernel.config, kernel.size) == (family, config, family.size(PRODUCT))
    assert kernel.name == f"pallas_conv_{family.name}_{family.series(PRODUCT)}_bias_relu"
    path, epilogue = family.code_path(PRODUCT, config), family.epilogue(PRODUCT, config)
    assert kernel.facts == Facts(path, epilogue, kernel.series, kernel.size)
    assert kernel.notes == tuple(family.notes(PRODUCT, config))


def test_a_configuration_that_is_given_takes_the_place_of_the_chosen_one():
    case = ladder.CASES[0]
    given = serve.kernel(case.product, config=case.config)
    assert given.config == case.config != serve.choose(case.product)
    assert dataclasses.replace(given, given=None).config == serve.choose(case.product)


def test_what_no_kernel_serves_is_refused_with_every_reason():
    unserved = product(size=(70, 70), kernel=65, dtype="float64")
    reasons = families.reasons(unserved, Gpu().generation.capability)
    assert len(reasons) == 2
    assert serve.find(unserved) == reasons
    with pytest.raises(ValueError, match="no kernel serves the product: ") as caught:
        serve.kernel(unserved)
    assert all(reason in str(caught.value) for reason in reasons)


def test_choosing_a_configuration_imports_no_pallas():
    script = """
import sys
from pallas_conv.kernels import families, serve

for family in families.FAMILIES:
    assert serve.kernel(family.samples[0]).facts
print("jax.experimental.pallas" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

"""The lax programs that benchmarks time by name."""

import dataclasses

import numpy as np
import pytest

from pallas_conv import formulations
from tests.kernels.cases import product
from workloads.programs import operands, programs

PRODUCTS = {
    "dense": product("fprop", 2, (4, 6), (7, 5), 3, 1, 1, dtype="float32"),
    "transposed": product("dgrad", 2, (4, 6), (7, 5), 3, 2, 1, dtype="float32"),
    "weights": product("wgrad", 2, (4, 6), (7, 5), 3, 2, 1, dtype="float32"),
}
PRODUCTS |= {"models": dataclasses.replace(PRODUCTS["dense"], models=3)}


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_program_computes_the_product(name):
    found, given = programs(PRODUCTS[name]), operands(PRODUCTS[name])
    assert len(found) > 1
    want = np.asarray(found.pop(formulations.STOCK)(*given))
    assert (want.shape,) == PRODUCTS[name].result_shapes
    for program in found.values():
        got = np.asarray(program(*given))
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

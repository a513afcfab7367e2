"""The activations of the epilogue in float32, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv import activations
from pallas_conv.kernels.epilogue import ACTIVATIONS, Epilogue
from pallas_conv.verify import reference


def test_every_activation_that_layers_have_is_there():
    assert set(ACTIVATIONS) == {None, *activations.ACTIVATIONS}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_as_good_as_float32(name):
    """The error is a few units in the last place of float32 at the size of the input: far below 16-bit rounding."""
    z = np.concatenate([np.linspace(-30, 30, 10_001), np.logspace(-30, 0, 1000), -np.logspace(-30, 0, 1000)])
    z = z.astype(np.float32)
    got = np.asarray(ACTIVATIONS[name](jnp.asarray(z)), np.float64)
    error = np.abs(got - reference.ACTIVATIONS[name](z.astype(np.float64)))
    assert (error <= 4 * np.finfo(np.float32).eps * np.maximum(np.abs(z), np.abs(got))).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_extremes(name):
    """NaN stays NaN, and nothing overflows on the way."""
    f = ACTIVATIONS[name]
    assert np.isnan(f(jnp.float32(jnp.nan)))
    assert np.isfinite(np.asarray(f(jnp.array([-1e30, -1e4, 0, 1e4, 1e30], jnp.float32)))).all()


def test_outputs_are_numbered_as_the_product_lists_them_and_z_comes_first():
    z = jnp.array([-1.0, 2.0], jnp.float32)
    (first, sums), (second, activated) = Epilogue("relu", ("y", "z"))(z, jnp.float32)
    assert (first, second) == (1, 0)
    np.testing.assert_array_equal(sums, z)
    np.testing.assert_array_equal(activated, jax.nn.relu(z))

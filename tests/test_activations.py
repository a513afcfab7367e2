"""The package's activations and their derivatives, in float64, against the oracle's, which share no code with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_conv import activations
from pallas_conv.activations import ACTIVATIONS
from pallas_conv.verify import reference

EPS = np.finfo(np.float64).eps
POINTS = np.concatenate([np.linspace(-20, 20, 4001), np.logspace(-8, 0, 101), -np.logspace(-8, 0, 101)])
STEP = 1e-3


def slope(f, z):
    """f' by central differences of three widths, without the terms up to the sixth of their error."""
    one, two, three = ((f(z + n * STEP) - f(z - n * STEP)) / (2 * n * STEP) for n in (1, 2, 3))
    return (15 * one - 6 * two + three) / 10


def test_the_oracle_has_every_activation():
    assert set(reference.ACTIVATIONS) == {None, *ACTIVATIONS}


@pytest.mark.parametrize("name", reference.ACTIVATIONS)
def test_function(name):
    with jax.enable_x64(True):
        got = np.asarray(activations.applied(name, jnp.asarray(POINTS)))
    assert got.dtype == np.float64
    assert (np.abs(got - reference.ACTIVATIONS[name](POINTS)) <= 8 * EPS * np.maximum(1, np.abs(POINTS))).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative(name):
    """It is read from what is saved: the oracle's slope to the accuracy of differences, and to the last digits that of f."""
    smooth = POINTS[np.abs(POINTS) > 4 * STEP]  # beside the kinks
    with jax.enable_x64(True):
        z = jnp.asarray(smooth)
        saved = {"z": z, "y": activations.applied(name, z)}[ACTIVATIONS[name].saved]
        got = np.asarray(ACTIVATIONS[name].derivative(saved))
        own = np.asarray(jax.jvp(ACTIVATIONS[name].f, (z,), (jnp.ones_like(z),))[1])
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, slope(reference.ACTIVATIONS[name], smooth), rtol=0, atol=1e-10)
    np.testing.assert_allclose(got, own, rtol=0, atol=16 * EPS)

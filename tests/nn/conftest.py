"""A model that several files convert."""

import equinox as eqx
import jax.random as jr
import pytest

from tests.nn.models import UNet


@pytest.fixture(scope="module")
def unet():
    return eqx.filter_jit(UNet)(jr.key(0))

"""Lax programs over four devices: where XLA would gather the batch each convolves its own, and the rest is left to XLA."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import pallas_conv as pc
from pallas_conv import formulations
from tests.transforms import programs


class Layer(NamedTuple):
    """A kernel of three taps a side on eight images, alone or of each of four models."""

    f: str = "conv"
    ndim: int = 2
    channels: tuple[int, int] = (8, 16)
    groups: int = 4
    stride: int = 1
    models: int = 0

    def structs(self, place):
        c, o = self.channels
        models, side = (4,) * self.models, {1: 20, 2: 9, 3: 6}[self.ndim]
        x, w = (*models, 8, c, *(side,) * self.ndim), (*models, o, c // self.groups, *(3,) * self.ndim)
        return place(x, "d"), place(w, *["d"] * self.models)

    def gradients(self, implementation="auto"):
        """Result, input gradient and weight gradient of a call."""
        settings = {"stride": self.stride, "padding": 1, "groups": self.groups, "implementation": implementation}
        call = functools.partial(getattr(pc, self.f), **settings)
        call = jax.vmap(call) if self.models else call

        def f(x, w):
            y, pullback = jax.vjp(call, x, w)
            return y, pullback(jnp.cos(y))

        return f


LAYERS = {
    "2-D": Layer(),
    "1-D strided": Layer(ndim=1, stride=2),
    "3-D transposed": Layer("conv_transpose", ndim=3, stride=2),
    "2-D transposed": Layer("conv_transpose", stride=2),
    "fewer outputs than channels": Layer(channels=(8, 4)),
    "depthwise": Layer(channels=(8, 8), groups=8),
    "depthwise transposed": Layer("conv_transpose", channels=(8, 8), groups=8, stride=2),
    "dense, of each model": Layer(groups=1, models=1),
}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Stock's program, which a GPU takes where there is no kernel, and a CPU's layer if no rule is for it."""
    monkeypatch.setattr(formulations, "choose", lambda *of: (formulations.STOCK, "as on a GPU"))


def place(mesh, shape, *spec):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))


def on_four_devices(layer, implementation="auto"):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    return jax.jit(layer.gradients(implementation)).lower(*layer.structs(functools.partial(place, mesh)))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", LAYERS)
def test_only_weight_gradients_are_sent(name):
    layer = LAYERS[name]
    assert programs.collectives(on_four_devices(layer).compile()) == ({} if layer.models else {"all-reduce": 1})


def test_what_a_cpu_is_served_by_is_not_gathered_either():
    layer = Layer(ndim=3, channels=(32, 64))  # the library forward, matrix products for the weight gradient
    assert programs.collectives(on_four_devices(layer).compile()) == {"all-reduce": 1}


@pytest.mark.usefixtures("as_on_a_gpu")
def test_what_xla_divides_and_what_was_asked_for_by_name_are_left_to_it():
    """One device has nothing to divide."""
    ours = lambda lowered: "CustomSPMDPartitioning" in lowered.as_text()
    assert ours(on_four_devices(Layer()))
    assert not ours(on_four_devices(Layer(), "xla"))
    assert not ours(on_four_devices(Layer(), ("mosaic", "xla")))
    assert not ours(on_four_devices(Layer(groups=1)))
    assert not ours(on_four_devices(LAYERS["depthwise"]))
    assert not ours(
        jax.jit(Layer().gradients()).lower(*Layer().structs(lambda shape, *_: jax.ShapeDtypeStruct(shape, jnp.float32)))
    )

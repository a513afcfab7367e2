"""convert, of layers that others wrap or derive from: what of a user's classes is kept, and what is left alone."""

import copy
import io
import pickle
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import pallas_conv as pc
from tests.nn.models import assert_close, assert_same_leaves, classes, run


def test_weight_norm():
    stock = eqx.nn.WeightNorm(eqx.nn.Conv2d(3, 4, 3, key=jr.key(0)))
    model = pc.convert(stock)
    assert type(model.layer) is pc.Conv2d
    assert_same_leaves(stock, model)
    x = jr.normal(jr.key(1), (3, 6, 6))
    loss = lambda model, x: jnp.sum(model(x) ** 2)
    assert_close(run(stock, x), run(model, x))
    grads = [jax.tree.leaves(eqx.filter_grad(loss)(m, x)) for m in (stock, model)]
    assert_close(*grads)


def test_spectral_norm():
    make = lambda: eqx.nn.SpectralNorm(eqx.nn.Conv2d(3, 4, 3, key=jr.key(0)), "weight", key=jr.key(1))
    stock, state = eqx.nn.make_with_state(make)()
    model, same_state = pc.convert((stock, state))
    assert same_state is state
    assert type(model.layer) is pc.Conv2d
    clone = lambda state: jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(state))
    x = jr.normal(jr.key(2), (3, 6, 6))
    (y, after), (ours, ours_after) = stock(x, clone(state)), model(x, clone(state))
    assert_close(y, ours)
    assert_close(jax.tree.leaves(after), jax.tree.leaves(ours_after))
    model, state = eqx.nn.make_with_state(lambda: pc.convert(make()))()
    assert_close(model(x, state)[0], y)


def test_wrapped_functions_and_partials():
    conv = eqx.nn.Conv1d(3, 4, 3, key=jr.key(0))
    for wrapped in (eqx.filter_vmap(conv), eqx.Partial(conv), eqx.nn.Lambda(conv)):
        model = pc.convert(wrapped)
        x = jr.normal(jr.key(1), (2, 3, 6) if hasattr(wrapped, "_in_axes") else (3, 6))
        assert classes(model) == [pc.Conv1d]
        assert_close(wrapped(x), model(x))


# ---------------------------------------------------------------- subclasses by users


class Sized(eqx.nn.Conv2d):
    """Overrides nothing but the constructor."""

    def __init__(self, in_channels, out_channels, *, key):
        super().__init__(in_channels, out_channels, 3, padding=1, key=key)

    @property
    def fan_in(self):
        return self.in_channels * 9

    def twice(self, x):
        return 2 * super().__call__(x)


class SizedAgain(Sized):
    def __check_init__(self):
        assert self.kernel_size == (3, 3)


class Greeting(eqx.Module):
    def greet(self):
        return f"a {type(self).__name__}"


class Mixed[T](Greeting, eqx.nn.ConvTranspose1d):
    def __init__(self, *args, key):
        eqx.nn.ConvTranspose1d.__init__(self, *args, 3, key=key)


@pytest.mark.parametrize(
    ("cls", "stock", "ours"),
    [
        (Sized, eqx.nn.Conv2d, pc.Conv2d),
        (SizedAgain, eqx.nn.Conv2d, pc.Conv2d),
        (Mixed, eqx.nn.ConvTranspose1d, pc.ConvTranspose1d),
    ],
)
def test_subclasses_that_only_construct_are_converted(cls, stock, ours):
    layer = cls(3, 4, key=jr.key(0))
    model = pc.convert(layer)
    assert isinstance(model, cls)
    assert isinstance(model, ours)
    assert type(model) is type(pc.convert(cls(4, 4, key=jr.key(1))))
    assert (type(model).__module__, type(model).__qualname__) == (cls.__module__, cls.__qualname__)
    assert_same_leaves(layer, model)
    x = jnp.ones((3, 6, 6)[: layer.num_spatial_dims + 1])
    assert "conv_affine" in str(jax.make_jaxpr(model)(x))
    assert_close(run(layer, x), run(model, x))
    back = pc.convert(model, to="equinox")
    assert type(back) is cls
    assert jax.tree.structure(back) == jax.tree.structure(layer)
    before, after = pc.convert_report(layer)[0], pc.convert_report(model)[0]
    assert before.layer == after.layer == f"{cls.__module__}.{cls.__qualname__}"
    assert (before.status, after.status) == ("would be converted", "converted")
    assert before.reason == f"to a subclass of it and of pallas_conv.{ours.__name__}"
    assert pc.convert_report(model, to="equinox")[0].reason == f"to {before.layer} itself"
    assert pc.convert_report(layer, to="equinox")[0].status == "converted"


def test_converted_subclasses_are_what_their_users_made_them():
    layer = Sized(3, 4, key=jr.key(0))
    model = pc.convert(layer, implementation="xla")
    x = jnp.ones((3, 6, 6))
    assert model.fan_in == 27
    assert_close(model.twice(x), 2 * layer(x))
    assert pc.convert(Mixed(3, 4, key=jr.key(0))).greet() == "a Mixed"
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, layer)
    file.seek(0)
    copies = (
        pickle.loads(pickle.dumps(model)),
        copy.copy(model),
        copy.deepcopy(model),
        eqx.tree_deserialise_leaves(file, model),
        jax.tree.map(lambda leaf: leaf, model),
    )
    for other in copies:
        assert type(other) is type(model)
        assert jax.tree.structure(other) == jax.tree.structure(model)
        assert_close(other.weight, layer.weight)
    built = type(model)(3, 4, key=jr.key(0))
    assert type(built) is type(model)
    assert built.implementation is None
    assert_close(built.weight, layer.weight)


class Scaled(eqx.nn.Conv2d):
    def __call__(self, x, *, key=None):
        return 2 * super().__call__(x)


class Calling(eqx.Module):
    def __call__(self, x):
        return x


class Inherited(Calling, eqx.nn.Conv2d):
    __init__ = eqx.nn.Conv2d.__init__


class WithField(eqx.nn.Conv2d):
    gain: float

    def __init__(self, *args, key):
        super().__init__(*args, key=key)
        self.gain = 2.0


class Padding(eqx.nn.Conv2d):
    def _nonzero_pad(self, x):
        return x


class Activated(eqx.nn.Conv2d):
    def activation(self, x):
        return x


class Registered(eqx.nn.Conv2d):
    def __init_subclass__(cls, registry):
        registry.append(cls)


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (Scaled, r"its __call__ is not that of equinox.nn.Conv2d .* have it derive from pallas_conv.Conv2d"),
        (Inherited, "its __call__ is not that of equinox.nn.Conv2d"),
        (WithField, "it declares fields that equinox.nn.Conv2d does not: gain; have it derive"),
        (Padding, "it overrides _nonzero_pad, on which the __call__ of equinox.nn.Conv2d relies"),
        (Activated, "its activation would hide what pallas_conv.Conv2d has under that name: rename it"),
        (Registered, "it cannot be subclassed .*missing 1 required positional argument: 'registry'"),
    ],
)
def test_other_subclasses_are_left_alone(cls, reason):
    model = {"mine": cls(3, 4, 3, key=jr.key(0)), "stock": eqx.nn.Conv2d(3, 4, 3, key=jr.key(0))}
    converted = pc.convert(model)
    assert converted["mine"] is model["mine"]
    assert type(converted["stock"]) is pc.Conv2d
    mine, stock = pc.convert_report(model)
    assert (mine.path, mine.status) == ("['mine']", "left alone")
    assert mine.layer.endswith(f".{cls.__name__}")
    assert re.match(reason, mine.reason)
    assert (stock.path, stock.layer, stock.status) == ("['stock']", "equinox.nn.Conv2d", "would be converted")


def test_subclasses_of_our_layers_stay_what_they_are():
    class Ours(pc.Conv2d):
        def __call__(self, x):
            return 2 * super().__call__(x)

    model = Ours(3, 4, 3, key=jr.key(0))
    assert pc.convert(model) is model
    assert pc.convert_report(model)[0].status == "converted"
    strict = pc.convert(model, implementation="xla")
    assert (type(strict), strict.implementation) == (Ours, ("xla",))
    assert pc.convert(model, to="equinox") is model
    (row,) = pc.convert_report(model, to="equinox")
    assert (row.status, row.reason) == ("left alone", "a subclass of pallas_conv.Conv2d has no counterpart in equinox")


def test_layers_inside_a_subclass_are_converted():
    class WithSkip(eqx.nn.Conv2d):
        skip: eqx.nn.Conv2d

        def __init__(self, key):
            super().__init__(3, 4, 3, padding=1, key=key)
            self.skip = eqx.nn.Conv2d(3, 4, 1, key=key)

    model = pc.convert(WithSkip(jr.key(0)))
    assert type(model) is WithSkip
    assert type(model.skip) is pc.Conv2d
    assert [row.status for row in pc.convert_report(model)] == ["left alone", "converted"]

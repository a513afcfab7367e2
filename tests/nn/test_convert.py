"""convert: the same function of the very same leaves, wherever the layers are; and a report of what it did."""

import copy
import functools
import io
import pickle
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from jax.lax import conv_transpose as convolve

import pallas_conv as pc

STOCK = [
    eqx.nn.Conv,
    eqx.nn.Conv1d,
    eqx.nn.Conv2d,
    eqx.nn.Conv3d,
    eqx.nn.ConvTranspose,
    eqx.nn.ConvTranspose1d,
    eqx.nn.ConvTranspose2d,
    eqx.nn.ConvTranspose3d,
]


def assert_same_leaves(a, b):
    """The very same objects."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    assert all(p is q for p, q in zip(a, b, strict=True))


def assert_close(a, b):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6), a, b)


def classes(model):
    is_layer = lambda n: isinstance(n, eqx.nn.Conv | eqx.nn.ConvTranspose)
    return [type(n) for n in jax.tree.leaves(model, is_leaf=is_layer) if is_layer(n)]


class Block(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    activation: callable

    def __init__(self, channels_in, channels_out, key):
        self.conv = eqx.nn.Conv2d(channels_in, channels_out, 3, padding="SAME", key=key)
        self.norm = eqx.nn.GroupNorm(2, channels_out)
        self.activation = jax.nn.silu

    def __call__(self, x):
        return self.activation(self.norm(self.conv(x)))


class UNet(eqx.Module):
    """Strided and transposed, depthwise and dilated, in lists, dicts and Sequential; and layers that are not convolutions."""

    encoder: list
    down: dict
    middle: eqx.nn.Sequential
    up: eqx.nn.ConvTranspose2d
    head: tuple
    name: str = eqx.field(static=True)

    def __init__(self, key):
        keys = jr.split(key, 7)
        self.encoder = [Block(3, 4, keys[0]), Block(4, 4, keys[1])]
        self.down = {"conv": eqx.nn.Conv2d(4, 8, 3, stride=2, padding=1, key=keys[2])}
        self.middle = eqx.nn.Sequential(
            [
                eqx.nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, use_bias=False, key=keys[3]),
                eqx.nn.Lambda(jax.nn.relu),
                eqx.nn.Conv(2, 8, 8, 1, padding_mode="CIRCULAR", key=keys[4]),
            ]
        )
        self.up = eqx.nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1, key=keys[5])
        self.head = (eqx.nn.Linear(4, 2, key=keys[6]), None, 3.0)
        self.name = "unet"

    def __call__(self, x):
        for block in self.encoder:
            x = block(x)
        x = x + self.up(self.middle(self.down["conv"](x)))
        return self.head[0](x.mean((1, 2))) * self.head[2]


@pytest.fixture(scope="module")
def unet():
    return eqx.filter_jit(UNet)(jr.key(0))


def run(model, *args):
    return eqx.filter_jit(lambda model, *args: model(*args))(model, *args)


# ---------------------------------------------------------------- the same function of the same leaves


def test_a_mixed_model_has_the_same_leaves_values_and_gradients(unet):
    model = pc.convert(unet)
    assert_same_leaves(unet, model)
    assert set(classes(model)) == {pc.Conv, pc.Conv2d, pc.ConvTranspose2d}
    assert len(classes(model)) == 6
    x = jr.normal(jr.key(1), (3, 8, 8))
    assert_close(run(unet, x), run(model, x))

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model, xs):
        return jnp.mean(jax.vmap(model)(xs) ** 2)

    xs = jr.normal(jr.key(2), (5, 3, 8, 8))
    stock, ours = loss(unet, xs), loss(model, xs)
    assert_close(stock[0], ours[0])
    assert_close(*(jax.tree.leaves(eqx.filter(grads, eqx.is_array)) for _, grads in (stock, ours)))


def test_the_input_is_not_changed(unet):
    before = jax.tree.structure(unet)
    pc.convert(unet)
    assert jax.tree.structure(unet) == before


def test_back_restores_the_stock_classes(unet):
    back = pc.convert(pc.convert(unet, implementation="xla"), to="equinox")
    assert_same_leaves(unet, back)
    assert jax.tree.structure(back) == jax.tree.structure(unet)
    assert set(classes(back)) == {eqx.nn.Conv, eqx.nn.Conv2d, eqx.nn.ConvTranspose2d}
    assert vars(back.up) == vars(unet.up)


@pytest.mark.parametrize("stock", STOCK, ids=lambda c: c.__name__)
def test_every_class_converts_to_its_namesake_and_back(stock):
    spatial = (2,) * (stock in (eqx.nn.Conv, eqx.nn.ConvTranspose))
    layer = stock(*spatial, 4, 6, 3, key=jr.key(0))
    ours = pc.convert(layer)
    assert type(ours) is getattr(pc, stock.__name__)
    assert (ours.implementation, ours.activation, ours.compute_dtype) == (None, None, None)
    built = type(ours)(*spatial, 4, 6, 3, key=jr.key(0))
    assert jax.tree.structure(ours) == jax.tree.structure(built)
    assert type(pc.convert(ours, to="equinox")) is stock
    x = jr.normal(jr.key(1), (4,) + (7,) * layer.num_spatial_dims)
    assert_close(run(layer, x), run(ours, x))


def test_serialised_models_cross(unet):
    other, model = eqx.filter_jit(UNet)(jr.key(9)), pc.convert(unet)
    for source, like in ((unet, pc.convert(other)), (model, other)):
        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, source)
        file.seek(0)
        loaded = eqx.tree_deserialise_leaves(file, like)
        assert jax.tree.structure(loaded) == jax.tree.structure(like)
        assert_close(*(eqx.filter(jax.tree.leaves(m), eqx.is_array) for m in (loaded, unet)))


def test_optimiser_states_are_converted_with_the_model(unet):
    """One step of momentum, from a state made for the stock model."""
    arrays = lambda tree: eqx.filter(tree, eqx.is_inexact_array)
    moments = {"momentum": jax.tree.map(lambda p: 0.5 * p, arrays(unet)), "count": jnp.ones(())}
    model, converted = pc.convert(unet), pc.convert(moments)
    assert_same_leaves(moments, converted)
    stepped = jax.tree.map(jnp.add, arrays(model), converted["momentum"])
    assert_close(*(jax.tree.leaves(t) for t in (stepped, jax.tree.map(jnp.add, arrays(unet), moments["momentum"]))))


def test_already_converted_is_left_as_it_is(unet):
    model = pc.convert(unet)
    assert pc.convert(model) is model
    assert pc.convert(unet, to="equinox") is unet


# ---------------------------------------------------------------- implementation


def test_implementation_is_set_on_every_layer(unet):
    model = pc.convert(unet, implementation="xla")
    assert model.up.implementation == model.middle[0].implementation == ("xla",)
    assert_same_leaves(unet, model)


def test_implementation_of_converted_layers_is_updated_or_kept(unet):
    model = pc.convert(unet, implementation="xla")
    assert pc.convert(model).up.implementation == ("xla",)
    assert pc.convert(model, implementation=("mosaic", "xla")).up.implementation == ("mosaic", "xla")
    layer = pc.Conv2d(3, 4, 3, activation="relu", key=jr.key(0))
    assert pc.convert(layer, implementation="xla").activation == "relu"


def test_wrong_arguments_name_themselves(unet):
    for to in ("torch", None, 3, []):
        with pytest.raises(ValueError, match=r"to must be 'pallas_conv' or 'equinox'; got"):
            pc.convert(unet, to=to)
        with pytest.raises(ValueError, match="to must be"):
            pc.convert_report(unet, to=to)
    with pytest.raises(ValueError, match=r"implementation must be one of .* got 'cuda'"):
        pc.convert(unet, implementation="cuda")
    with pytest.raises(ValueError, match="implementation must be None for to='equinox'"):
        pc.convert(unet, to="equinox", implementation="xla")


# ---------------------------------------------------------------- sharing


def test_equinox_shared():
    class Twice(eqx.Module):
        shared: eqx.nn.Shared

        def __init__(self, where, get, key):
            layers = tuple(eqx.nn.Conv1d(4, 4, 3, padding=1, key=k) for k in jr.split(key))
            self.shared = eqx.nn.Shared(layers, where, get)

        def __call__(self, x):
            first, second = self.shared()
            return second(jax.nn.relu(first(x)))

    x = jr.normal(jr.key(1), (4, 9))
    whole = (lambda p: p[1], lambda p: p[0])
    weight = (lambda p: p[1].weight, lambda p: p[0].weight)
    for where, get in (whole, weight):
        stock = Twice(where, get, jr.key(0))
        model = pc.convert(stock)
        assert_same_leaves(stock, model)
        first, second = model.shared()
        assert first.weight is second.weight
        assert classes((first, second)) == [pc.Conv1d] * 2
        assert_close(run(stock, x), run(model, x))
        assert jax.tree.structure(pc.convert(model, to="equinox")) == jax.tree.structure(stock)


def test_an_object_that_occurs_twice_stays_one_object():
    conv = eqx.nn.Conv1d(4, 4, 3, key=jr.key(0))
    holder = eqx.nn.Sequential([conv])
    model = pc.convert({"a": conv, "b": [conv, holder], "c": holder})
    assert type(model["a"]) is pc.Conv1d
    assert model["b"][0] is model["a"]
    assert model["c"] is model["b"][1]
    assert model["c"][0] is model["a"]


def test_what_holds_no_layer_is_passed_on(unet):
    model = pc.convert(unet)
    assert model.head is unet.head
    assert model.encoder[0].norm is unet.encoder[0].norm


@pytest.mark.parametrize(
    "junk", [None, 3, "text", object(), print, lambda x: x, np.ones(2), (), {}, {1, 2}, jnp.convolve]
)
def test_other_things_pass_through(junk):
    assert pc.convert(junk) is junk
    assert len(pc.convert_report(junk)) == 0


# ---------------------------------------------------------------- leaves of every kind


def test_ensembles():
    @eqx.filter_vmap
    def make(key):
        return eqx.nn.Conv2d(3, 4, 3, key=key)

    stock = make(jr.split(jr.key(0), 5))
    model = pc.convert(stock)
    assert model.weight is stock.weight
    assert model.weight.shape == (5, 4, 3, 3, 3)
    x = jr.normal(jr.key(1), (3, 6, 6))
    each = eqx.filter_vmap(lambda layer, x: layer(x), in_axes=(eqx.if_array(0), None))
    assert_close(each(stock, x), each(model, x))


def test_abstract_leaves():
    stock = eqx.filter_eval_shape(UNet, jr.key(0))
    model = pc.convert(stock)
    assert_same_leaves(stock, model)
    y = eqx.filter_eval_shape(model, jax.ShapeDtypeStruct((3, 8, 8), jnp.float32))
    assert y.shape == (2,)


def test_none_leaves(unet):
    params, static = eqx.partition(unet, eqx.is_array)
    params, static = pc.convert(params), pc.convert(static)
    assert static.up.weight is None
    model = eqx.combine(params, static)
    assert jax.tree.structure(model) == jax.tree.structure(pc.convert(unet))
    x = jr.normal(jr.key(1), (3, 8, 8))
    assert_close(run(unet, x), run(model, x))


def test_inside_a_transformation(unet):
    x = jr.normal(jr.key(1), (3, 8, 8))
    assert_close(unet(x), eqx.filter_jit(lambda model, x: pc.convert(model)(x))(unet, x))


def test_bfloat16():
    stock = eqx.nn.ConvTranspose1d(4, 4, 3, stride=2, dtype=jnp.bfloat16, key=jr.key(0))
    model = pc.convert(stock)
    x = jr.normal(jr.key(1), (4, 9), jnp.bfloat16)
    assert model(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(stock(x).astype(jnp.float32), model(x).astype(jnp.float32), rtol=2e-2, atol=2e-2)


# ---------------------------------------------------------------- wrappers


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


# ---------------------------------------------------------------- out of reach


class Hidden(eqx.Module):
    seen: eqx.nn.Conv1d
    unseen: eqx.nn.Conv1d = eqx.field(static=True)
    function: callable

    def __call__(self, x):
        return self.function(self.seen(self.unseen(x)))


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_layers_outside_the_pytree_are_reported_and_still_work():
    convs = [eqx.nn.Conv1d(3, 3, 3, padding=1, key=k) for k in jr.split(jr.key(0), 3)]
    x = jr.normal(jr.key(1), (3, 6))

    def default(x, conv=convs[2]):
        return conv(x)

    functions = {
        "closure": lambda x: convs[2](x),
        "default": default,
        "method": convs[2].__call__,
        "partial": functools.partial(lambda conv, x: conv(x), convs[2]),
        "jitted": jax.jit(lambda x: convs[2](x)),
    }
    for name, function in functions.items():
        stock = Hidden(convs[0], convs[1], function)
        model = pc.convert(stock)
        assert type(model.seen) is pc.Conv1d, name
        assert model.unseen is convs[1], name
        assert model.function is function, name
        assert_close(run(stock, x), run(model, x))
        rows = {row.path: row for row in pc.convert_report(model)}
        assert rows[".seen"].status == "converted", name
        assert rows[".unseen"].status == "left alone", name
        assert "static field" in rows[".unseen"].reason, name
        assert rows[".function"].status == "left alone", name
        assert "function holds it" in rows[".function"].reason, name


def test_layers_under_vmap_are_reported():
    conv = eqx.nn.Conv1d(3, 4, 3, key=jr.key(0))
    for wrapped in (
        jax.vmap(jax.vmap(conv)),
        jax.jit(jax.vmap(conv)),
        jax.vmap(conv.__call__),
        jax.vmap(lambda x: conv(x)),
    ):
        (row,) = pc.convert_report([wrapped])
        assert (row.path, row.status) == ("[0]", "left alone")


def test_layers_under_filter_jit_are_reported():
    conv = eqx.nn.Conv1d(3, 4, 3, key=jr.key(0))
    jitted = [eqx.filter_jit(conv)]
    assert pc.convert(jitted)[0] is jitted[0]
    (row,) = pc.convert_report(jitted)
    assert (row.path, row.status) == ("[0]", "left alone")
    assert row.reason.startswith("equinox.filter_jit holds it")
    (row,) = pc.convert_report(eqx.filter_jit(pc.convert(conv)))
    assert row.status == "converted"


def of_this_file(x, w):
    return convolve(x, w, (1,), "SAME") if x.shape == w.shape else of_this_file(x, x)


class Lax(eqx.Module):
    """Calls jax.lax by itself, in every way that is seen; `innocent` only looks like it."""

    w: jax.Array
    held: callable
    conv: eqx.nn.Conv1d

    def __call__(self, x):
        return jax.vmap(lambda x: jax.lax.conv_general_dilated(x, self.w, (1,), "SAME"))(x)

    @functools.partial(jax.jit, static_argnums=0)
    def jitted(self, x):
        return lax.conv(x, self.w, (1,), "SAME")

    @property
    def through_another(self):
        return of_this_file(self.w, self.w)

    def innocent(self, x):
        return lax.stop_gradient(self.conv(x)) + pc.lax.conv(x, self.w, (1,), "SAME")


def test_what_calls_lax_itself_is_reported():
    conv = eqx.nn.Conv1d(3, 4, 3, key=jr.key(0))
    held = functools.partial(lax.conv_with_general_padding, window_strides=(1,))
    model = pc.convert({"lax": Lax(conv.weight, held, conv), "function": lambda x: lax.conv(x, x, (1,), "SAME")})
    patched = ", or trace it under pallas_conv.lax.patched()"
    reasons = [
        ("['function']", f"test_what_calls_lax_itself_is_reported.<locals>.<lambda> calls jax.lax.conv itself: call "
                         f"pallas_conv.lax.conv{patched}"),
        ("['lax']", f"Lax.__call__ calls jax.lax.conv_general_dilated itself: call "
                    f"pallas_conv.lax.conv_general_dilated{patched}"),
        ("['lax']", f"Lax.jitted calls jax.lax.conv itself: call pallas_conv.lax.conv{patched}"),
        ("['lax']", "of_this_file calls jax.lax.conv_transpose itself: call pallas_conv.lax.conv_transpose"),
        ("['lax'].held", "the model calls jax.lax.conv_with_general_padding itself: call "
                         "pallas_conv.lax.conv_with_general_padding"),
    ]  # fmt: skip
    report = pc.convert_report(model)
    assert [(row.path, row.reason) for row in report if row.status == "left alone"] == reasons
    assert [row.path for row in report if row.status == "converted"] == ["['lax'].conv"]
    assert [row.path for row in pc.convert_report(model, to="equinox")] == ["['lax'].conv"]


def test_extras_that_equinox_lacks_are_left_alone():
    plain = pc.Conv2d(3, 4, 3, implementation="xla", key=jr.key(0))
    fused = pc.Conv2d(3, 4, 3, activation="relu", key=jr.key(0))
    mixed = pc.Conv2d(3, 4, 3, compute_dtype=jnp.bfloat16, activation="silu", key=jr.key(0))
    model = [plain, fused, mixed]
    back = pc.convert(model, to="equinox")
    assert type(back[0]) is eqx.nn.Conv2d
    assert back[1] is fused
    assert back[2] is mixed
    report = pc.convert_report(model, to="equinox")
    assert [row.status for row in report] == ["would be converted", "left alone", "left alone"]
    assert "activation='relu'" in report[1].reason
    assert "activation='silu' and no compute_dtype='bfloat16'" in report[2].reason
    assert {row.status for row in pc.convert_report(model)} == {"converted"}


# ---------------------------------------------------------------- the report


def test_report_before_and_after(unet):
    before, after = pc.convert_report(unet), pc.convert_report(pc.convert(unet))
    assert [row.path for row in before] == [row.path for row in after]
    assert before[0].path == ".encoder[0].conv"
    assert before[2].path == ".down['conv']"
    assert {row.status for row in before} == {"would be converted"}
    assert {row.status for row in after} == {"converted"}
    assert str(before[-1]) == ".up: equinox.nn.ConvTranspose2d would be converted: to pallas_conv.ConvTranspose2d"
    assert str(after).splitlines()[:2] == [
        "6 convolutions: 6 converted",
        "  .encoder[0].conv: pallas_conv.Conv2d converted",
    ]


def test_report_of_a_bare_layer_and_of_none():
    conv = eqx.nn.Conv1d(3, 4, 3, key=jr.key(0))
    assert str(pc.convert_report(conv)).splitlines() == [
        "1 convolution: 1 would be converted",
        "  (the model): equinox.nn.Conv1d would be converted: to pallas_conv.Conv1d",
    ]
    assert str(pc.convert_report([])) == "0 convolutions"


def test_report_paths_lead_to_the_layers(unet):
    for row in pc.convert_report(unet):
        assert isinstance(eval("unet" + row.path, {"unet": unet}), eqx.nn.Conv | eqx.nn.ConvTranspose)

"""convert: the same function of the very same leaves, wherever the layers are."""

import io

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import pallas_conv as pc
from tests.nn.models import UNet, assert_close, assert_same_leaves, classes, run

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

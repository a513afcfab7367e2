"""convert_report: what convert cannot reach, what calls jax.lax itself, and how it is said."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import lax
from jax.lax import conv_transpose as convolve

import pallas_conv as pc
from tests.nn.models import assert_close, run


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

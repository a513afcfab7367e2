"""An equation offers all of itself to one kernel, then its parts to several programs."""

import dataclasses
import functools
import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_conv as pc
from pallas_conv.dispatch import trust
from pallas_conv.dispatch.record import Timing
from pallas_conv.kernels import families, serve
from pallas_conv.lowering import execution
from tests.kernels import together
from tests.kernels.products import product


@pytest.fixture(autouse=True)
def a_family_of_backward_passes(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", (together.TOGETHER, *families.FAMILIES))
    interpret = execution._interpret

    def run(chosen, *operands):  # no Pallas is in this family's bodies
        if chosen.kernel.family is together.TOGETHER:
            return chosen.kernel.run(*operands)
        return interpret(chosen, *operands)

    monkeypatch.setattr(execution, "_interpret", run)
    together.launched.clear()


def layer(activation="silu", **how):
    return pc.Conv2d(16, 16, 3, padding=1, activation=activation, key=jax.random.key(0), **how)


def images():
    return jax.random.normal(jax.random.key(1), (2, 16, 9, 7))


def halved(tree):
    return jax.tree.map(lambda a: a.astype(jnp.bfloat16) if eqx.is_array(a) else a, tree)


def loss(layer, x):
    return jnp.sum(jax.vmap(layer)(x) ** 2)


def gradients(implementation, conv, wrt):
    def of(layer, x):
        with pc.implementation(implementation):
            return (
                eqx.filter_grad(lambda both: loss(*both))((layer, x))
                if wrt == "all"
                else eqx.filter_grad(loss)(layer, x)
            )

    return jax.tree.leaves(eqx.filter(eqx.filter_jit(of)(conv, images()), eqx.is_array))


@pytest.mark.parametrize("activation", [None, pytest.param("silu", marks=pytest.mark.extended), "relu"])
@pytest.mark.parametrize(("wrt", "outputs"), [("all", ("dx", "dw", "db")), ("layer", ("dw", "db"))])
def test_one_kernel_computes_all_gradients_that_are_wanted(activation, wrt, outputs):
    want = gradients("xla", layer(activation), wrt)
    got = gradients(("interpret", "xla"), layer(activation), wrt)
    (whole,) = {product.outputs for product in together.launched}
    assert whole == outputs
    assert {product.activation for product in together.launched} == {activation}
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("wrt", "outputs"), [((0, 1, 2), ("dx", "dw", "db")), ((1, 2), ("dw", "db"))])
def test_the_gradient_of_a_float32_bias_is_not_rounded_as_that_of_bfloat16_weights_is(wrt, outputs):
    x, (w, b) = images().astype(jnp.bfloat16), (layer().weight.astype(jnp.bfloat16), jnp.zeros(16))
    ct = jax.random.normal(jax.random.key(2), x.shape, jnp.bfloat16)

    def loss(x, w, b):
        y = pc.conv(x, w, b, padding=1, compute_dtype=jnp.bfloat16, implementation=("interpret", "xla"))
        return jnp.sum(y.astype(jnp.float32) * ct.astype(jnp.float32))

    *others, db = jax.jit(jax.grad(loss, wrt))(x, w, b)
    assert {product.outputs for product in together.launched} == {outputs}
    assert {t.dtype for t in others} == {jnp.dtype(jnp.bfloat16)}
    assert db.dtype == jnp.float32
    np.testing.assert_allclose(db, ct.astype(jnp.float32).sum((0, 2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("role", "outputs", "dtypes"),
    [
        ("fprop", ("y", "z"), ("bfloat16", "bfloat16")),
        ("dgrad", ("dx",), ("bfloat16",)),
        ("wgrad", ("dw",), ("bfloat16",)),
        ("wgrad", ("dw", "db"), ("bfloat16", "float32")),
        ("bwd", ("dx", "dw"), ("bfloat16", "float32")),
        ("bwd", ("dx", "dw", "db"), ("bfloat16", "float32", "float32")),
    ],
)
def test_gradients_beside_the_first_one_stay_wide(role, outputs, dtypes):
    assert product(role=role, outputs=outputs).result_dtypes == dtypes


def test_explain_shows_one_product_where_one_kernel_runs():
    with pc.implementation(("mosaic", "xla")):
        found = pc.explain(
            lambda x: jax.grad(lambda both: loss(*both), allow_int=True)((layer(), x))[1], images(), device="h100"
        )
    assert [plan.product.role for plan in found] == ["fprop", "dgrad"]  # dead code: dw and db are not wanted here
    step = lambda x: eqx.filter(eqx.filter_grad(lambda both: loss(*both))((layer(), x)), eqx.is_array)
    with pc.implementation(("mosaic", "xla")):
        forward, backward = pc.explain(step, images(), device="h100")
    assert (backward.product.role, backward.implementation) == ("bwd", "mosaic")
    assert backward.scope == "pallas_conv_together_bwd_dxdwdb_silu_dxdwdb"
    assert forward.product.role == "fprop"


def test_auto_takes_it_against_the_programs_of_the_parts(monkeypatch):
    asked = []

    def faster(self, series, size, rival):
        asked.append((series, rival))
        return trust.Trust(series.startswith("bwd"), "made up")

    monkeypatch.setattr(trust.Proofs, "faster", faster)
    monkeypatch.setattr(
        trust, "proofs", lambda family, target: trust.Proofs({"together": {"silu": True}}, (), "made up")
    )
    step = lambda x: eqx.filter(eqx.filter_grad(lambda both: loss(*both))((layer(), x)), eqx.is_array)
    _, backward = pc.explain(step, images(), device="h100")
    assert (backward.product.role, backward.implementation) == ("bwd", "mosaic")
    assert ("bwd_dxdwdb", "stock+stock") in asked


@pytest.mark.parametrize(("wrt", "beside"), [("all", ["dgrad"]), ("layer", [])])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("fast", [True, False])
def test_auto_takes_what_is_summed_in_passing_where_it_takes_the_kernel(wrt, beside, activation, fast, monkeypatch):
    """A bias gradient beside the weight gradient is of the kernel that is held against what runs without kernels."""
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    asked = []

    def faster(self, series, size, rival):
        asked.append((series, rival))
        return trust.Trust(fast, "made up")

    monkeypatch.setattr(trust.Proofs, "faster", faster)
    monkeypatch.setattr(trust.Proofs, "not_right", lambda self, facts: None)
    monkeypatch.setattr(
        trust, "proofs", lambda family, target: trust.Proofs({"a path": {"linear": True}}, (), "made up")
    )
    conv = halved(layer(activation, compute_dtype=jnp.bfloat16))
    both = lambda x: eqx.filter(eqx.filter_grad(lambda both: loss(*both))((conv, x)), eqx.is_array)
    own = lambda x: eqx.filter(eqx.filter_grad(loss)(conv, x), eqx.is_array)
    _, *backward, last = pc.explain(both if wrt == "all" else own, images(), device="h100")
    assert [plan.product.role for plan in backward] == beside
    assert (last.product.role, last.implementation) == ("wgrad", "mosaic" if fast else "xla")
    assert last.product.outputs == (("dw", "db") if fast and activation is None else ("dw",))
    assert {rival for series, rival in asked} == {"stock"}


@pytest.mark.parametrize("halve", [True, False], ids=["16 bits", "32 bits"])
def test_what_is_summed_in_passing_is_right(halve, monkeypatch, caplog):
    """Whether weights have 16 bits or 32, the cotangent has 16: a kernel sums it without rounding it."""
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    conv = layer(None, compute_dtype=jnp.bfloat16)
    operands = halved((conv, images())) if halve else (conv, images())

    def gradients(implementation):
        with pc.implementation(implementation):
            return jax.tree.leaves(eqx.filter_jit(eqx.filter_grad(lambda both: loss(*both)))(operands))

    with caplog.at_level(logging.DEBUG, logger="pallas_conv"):
        got = gradients("interpret")
    assert f"wgrad_2d_{'bf16' if halve else 'bf16f32'}_s1_dwdb" in caplog.text
    for a, b in zip(got, gradients("xla"), strict=True):
        assert a.dtype == b.dtype
        a, b = (np.asarray(t, np.float32) for t in (a, b))
        np.testing.assert_allclose(a, b, atol=2.0**-7 * np.abs(b).max())


def test_a_bias_gradient_of_float32_weights_is_the_sum_of_all_bits(monkeypatch, caplog):
    """In passing, of a known cotangent: float32 goes from the kernel's sums to the user."""
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    x, w, b = images(), layer(None).weight, jnp.zeros(16)
    ct = jax.random.normal(jax.random.key(2), x.shape, jnp.bfloat16)
    y = lambda w, b: pc.conv(x, w, b, padding=1, compute_dtype=jnp.bfloat16, implementation=("interpret", "xla"))
    with caplog.at_level(logging.DEBUG, logger="pallas_conv"):
        _, db = jax.jit(lambda w, b: jax.vjp(y, w, b)[1](ct))(w, b)
    assert "wgrad_2d_bf16f32_s1_dwdb" in caplog.text
    assert db.dtype == jnp.float32
    np.testing.assert_allclose(db, ct.astype(jnp.float32).sum((0, 2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias_dtype", ["float32", "complex64"])
def test_a_wider_cotangent_keeps_its_bits(bias_dtype, monkeypatch, caplog):
    """The sum over a float32 or complex cotangent is XLA's, whatever the weights are."""
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    x, conv = halved((images(), layer(None)))
    b = (1 + jnp.arange(16.0)).astype(bias_dtype) * (1 if bias_dtype == "float32" else 1 + 0.5j)

    def gradient(implementation):
        loss = lambda b: jnp.sum(jnp.abs(pc.conv(x, conv.weight, b, padding=1, implementation=implementation)) ** 2)
        with_weights = lambda w, b: jnp.sum(jnp.abs(pc.conv(x, w, b, padding=1, implementation=implementation)) ** 2)
        return jax.grad(with_weights, (0, 1))(conv.weight, b), jax.grad(loss)(b)

    promoting = jax.numpy_dtype_promotion("standard")
    with promoting, caplog.at_level(logging.DEBUG, logger="pallas_conv"):
        (_, got), alone = gradient(("interpret", "xla"))
        planned = pc.explain(lambda: gradient(("mosaic", "xla"))[0], device="h100")
    assert "dwdb" not in caplog.text
    assert {plan.product.outputs for plan in planned if plan.product.role == "wgrad"} == {("dw",)}
    np.testing.assert_allclose(got, alone, rtol=1e-6)


@pytest.mark.parametrize(("wrt", "megabytes"), [("all", (5, 4)), ("layer", (4, 2))])
def test_explain_states_the_bytes_of_the_derivative(wrt, megabytes, monkeypatch):
    """XLA reads twice and writes, every kernel reads; or every kernel reads twice."""
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    conv, x = layer("relu", compute_dtype=jnp.bfloat16), jax.ShapeDtypeStruct((1, 16, 250, 125), "float32")  # 1 MB
    both = lambda x: eqx.filter(eqx.filter_grad(lambda both: loss(*both))((conv, x)), eqx.is_array)
    own = lambda x: eqx.filter(eqx.filter_grad(loss)(conv, x), eqx.is_array)
    with pc.implementation("mosaic"):
        first, *others = pc.explain(both if wrt == "all" else own, x, device="h100").plans[1:]
    (note,) = (it for it in first.notes if "derivative of relu" in it)
    assert f"{megabytes[0]} MB" in note
    assert f"{megabytes[1]} MB" in note
    assert not any("derivative" in note for plan in others for note in plan.notes)


@pytest.mark.parametrize(("out_dtype", "megabytes"), [(None, (5, 4)), ("float32", (7, 8))])
def test_the_bytes_of_the_derivative_are_those_of_each_array(out_dtype, megabytes, monkeypatch):
    """A float32 cotangent, and what is saved beside it, have twice the bytes of their product in bfloat16."""
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    how = {"padding": 1, "activation": "relu", "compute_dtype": jnp.bfloat16, "out_dtype": out_dtype}
    total = lambda x, w, b, **more: jnp.sum(pc.conv(x, w, b, **how, **more).astype(jnp.float32) ** 2)
    shapes = (1, 16, 250, 125), (16, 16, 3, 3), (16,)
    operands = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    with pc.implementation("mosaic"):
        (note,) = derivative_notes(jax.grad(total, (0, 1, 2)), *operands)
        residual = jax.ShapeDtypeStruct(shapes[0], out_dtype or "bfloat16")
        added = lambda x, w, b, r: total(x, w, b, residual=r)
        assert not derivative_notes(
            jax.grad(added, (0, 1, 2, 3)), *operands, residual
        )  # the product is wanted by itself
    assert all(f" {it} MB" in note for it in megabytes)
    with pc.implementation("xla"):
        assert not derivative_notes(jax.grad(total, (0, 1, 2)), *operands)


def derivative_notes(f, *operands):
    return [note for plan in pc.explain(f, *operands, device="h100") for note in plan.notes if "derivative" in note]


def test_without_a_weight_gradient_there_is_nothing_to_fuse():
    """Frozen weights: the input gradient and that of the bias."""

    def gradient(conv, implementation):
        frozen = lambda both: loss(eqx.tree_at(lambda c: c.weight, both[0], conv.weight), both[1])
        with pc.implementation(implementation):
            got = eqx.filter_jit(eqx.filter_grad(frozen))((conv, images()))
        return got[0].bias, got[1]

    for a, b in zip(gradient(layer(), ("interpret", "xla")), gradient(layer(), "xla"), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2)
    assert not together.launched


def test_auto_settles_for_the_parts_where_no_kernel_can_run():
    step = lambda x: eqx.filter(eqx.filter_grad(lambda both: loss(*both))((layer(), x)), eqx.is_array)
    with pc.implementation(("auto", "interpret")):
        _, *parts = pc.explain(step, images(), device="cpu")
    assert [plan.product.role for plan in parts] == ["dgrad", "wgrad"]


def test_without_trust_the_parts_are_planned_as_ever():
    step = lambda x: eqx.filter(eqx.filter_grad(lambda both: loss(*both))((layer(), x)), eqx.is_array)
    _, *parts = pc.explain(step, images(), device="h100")
    assert [plan.product.role for plan in parts] == ["dgrad", "wgrad"]
    assert not together.launched


LAX_US = 100.0


@pytest.mark.parametrize(
    ("us", "roles"),
    [
        ({"dgrad": 50, "wgrad": 60, "bwd": 90}, ["bwd"]),
        ({"dgrad": 50, "wgrad": 60, "bwd": 120}, ["dgrad", "wgrad"]),  # two kernels are faster
        ({"dgrad": 150, "wgrad": 60, "bwd": 155}, ["bwd"]),  # than stock's input gradient and a kernel
        ({"dgrad": 150, "wgrad": 60, "bwd": 165}, ["dgrad", "wgrad"]),
        ({"dgrad": 150, "wgrad": 150, "bwd": 180}, ["bwd"]),  # than two programs of stock's
        ({"dgrad": 150, "wgrad": 150, "bwd": 199}, ["dgrad", "wgrad"]),
        ({"wgrad": 60, "bwd": 90}, ["dgrad", "wgrad"]),  # nothing is known of the input gradient's
    ],
    ids=str,
)
def test_auto_takes_all_at_once_where_that_is_faster_than_the_parts(us, roles, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    conv = halved(pc.Conv2d(64, 64, 3, padding=1, groups=64, use_bias=False, key=jax.random.key(0)))
    x = jax.ShapeDtypeStruct((8, 64, 28, 28), jnp.bfloat16)
    step = lambda x: eqx.filter(eqx.filter_grad(lambda both: loss(*both))((conv, x)), eqx.is_array)
    with pc.implementation("mosaic"):
        _, whole = pc.explain(step, x, device="h100")

    def timed(role):
        outputs = whole.product.outputs if role == "bwd" else ()
        kernel = serve.kernel(dataclasses.replace(whole.product, role=role, outputs=outputs))
        lax, parts = ("stock+stock", 2) if role == "bwd" else ("stock", 1)
        timing = Timing(kernel.series, kernel.size, us[role], LAX_US * parts, lax)
        return trust.Timed(timing, trust.MARGIN, "made up")

    known = trust.Proofs({"a path": {"linear": True}}, tuple(map(timed, us)), "made up")
    monkeypatch.setattr(trust.Proofs, "not_right", lambda self, facts: None)
    monkeypatch.setattr(trust, "proofs", lambda family, target: known)
    _, *backward = pc.explain(step, x, device="h100")
    assert [plan.product.role for plan in backward] == roles
    if roles == ["bwd"]:
        assert "x the speed of" in backward[0].source
    if all(plan.implementation == "mosaic" for plan in backward[:2]) and roles != ["bwd"]:
        assert "no one kernel computes all gradients at once: " in backward[0].notes[-1]
        assert "0.92x the speed of its parts, which are mosaic and mosaic" in backward[0].notes[-1]


@pytest.mark.parametrize(
    ("padding", "bias_dtype", "activation", "outputs"),
    [
        pytest.param(1, "bfloat16", None, ("dx", "dw", "db"), marks=pytest.mark.extended),
        (1, "bfloat16", "silu", ("dx", "dw", "db")),
        pytest.param(2, "bfloat16", "silu", ("dx", "dw"), marks=pytest.mark.extended),
        pytest.param(
            2, "bfloat16", None, ("dx", "dw"), marks=pytest.mark.extended
        ),  # tiles of x do not hold all cotangents
        (1, "float32", None, ("dx", "dw")),  # whose cotangent is float32, which the kernel would round
    ],
)
def test_xla_sums_the_bias_gradient_where_the_kernel_of_the_others_cannot(
    padding, bias_dtype, activation, outputs, monkeypatch
):
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    w, x = jax.random.normal(jax.random.key(0), (32, 1, 3, 3)) / 3, jax.random.normal(jax.random.key(1), (2, 32, 5, 9))
    w, x, b = w.astype("bfloat16"), x.astype("bfloat16"), jax.random.normal(jax.random.key(2), (32,), bias_dtype)

    def gradients(implementation, w, x, b):
        def loss(w, x, b):
            y = pc.conv(
                x, w, b, padding=padding, groups=32, activation=activation, implementation=implementation,
                out_dtype=bias_dtype,
            )  # fmt: skip
            return jnp.sum(jnp.sin(y.astype("float32")))

        return jax.grad(loss, (0, 1, 2))(w, x, b)

    _, backward, *rest = pc.explain(functools.partial(gradients, "mosaic"), w, x, b, device="h100")
    assert (backward.product.role, backward.product.outputs, rest) == ("bwd", outputs, [])
    got, want = (jax.jit(functools.partial(gradients, how))(w, x, b) for how in (("interpret", "xla"), "xla"))
    for a, other in zip(got, want, strict=True):
        assert a.dtype == other.dtype
        largest = jnp.abs(other.astype("float32")).max()
        np.testing.assert_allclose(a.astype("float32"), other.astype("float32"), atol=0.02 * largest, rtol=0.02)


def test_explain_says_why_gradients_are_not_computed_at_once(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES[1:])
    wide, dense = (halved(pc.Conv2d(64, 64, 7, padding=3, groups=groups, key=jax.random.key(0))) for groups in (64, 1))
    x = jax.ShapeDtypeStruct((8, 64, 28, 28), jnp.bfloat16)
    for conv, told in ((wide, True), (dense, False)):
        step = lambda x, conv=conv: eqx.filter(eqx.filter_grad(lambda both: loss(*both))((conv, x)), eqx.is_array)
        with pc.implementation("mosaic"):
            _, by_x, by_w = pc.explain(step, x, device="h100")
        words = "no one kernel computes all gradients at once: no tile fits on an SM"
        assert any(words in note for note in by_x.notes) == told
        assert (by_x.product.role, by_w.product.role) == ("dgrad", "wgrad")

"""A family takes a file and a row: the toy one is served, explained, interpreted, compiled, emulated and checked by doctor."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_conv as pc
from compiled import kernels
from pallas_conv.dispatch import plan as planning
from pallas_conv.dispatch import trust
from pallas_conv.doctor import interpreted, plan
from pallas_conv.kernels import choice, families, mosaic, serve
from pallas_conv.target import resolve
from pallas_conv.verify.verdict import judge
from tests.emulator.emulate import emulation
from tests.kernels.cases import baseline
from tests.kernels.toy import TOY, Config

H100 = resolve("h100")
(PRODUCT,) = TOY.samples
CONFIGS = pytest.mark.parametrize("config", [Config(1), Config(2)], ids=str)


@pytest.fixture(autouse=True)
def a_row(monkeypatch):
    """The one line that a family needs outside of its own files. It comes first: the depthwise kernel has its products, too."""
    monkeypatch.setattr(families, "FAMILIES", (TOY, *families.FAMILIES))
    # Other processes, which choose tiles for doctor, do not see it.
    monkeypatch.setattr(plan, "tiles", lambda products, target: [serve.choose(product) for product in products])


def operands():
    rng = np.random.default_rng(0)
    dtypes = ("bfloat16", "bfloat16", "float32")
    return [jnp.asarray(rng.standard_normal(s), d) for s, d in zip(PRODUCT.operand_shapes, dtypes, strict=True)]


def assert_right(outs, given):
    (got,), (usual,) = outs, baseline(PRODUCT, *given)
    verdict = judge(PRODUCT, tuple(given), got, usual)
    assert verdict.right, verdict


def layer():
    return pc.Conv2d(40, 40, 1, groups=40, activation="relu", compute_dtype=jnp.bfloat16, key=jax.random.key(0))


def test_it_serves_its_products():
    kernel = serve.kernel(PRODUCT)
    assert kernel.family is TOY
    assert kernel.name == "pallas_conv_toy_fprop_2d_bf16_bias_relu"
    assert isinstance(families.find(PRODUCT, (8, 0)), tuple)


def test_its_tile_is_chosen_by_the_model():
    kernel = serve.kernel(PRODUCT)
    assert kernel.config == choice.best(TOY, TOY.problem(PRODUCT), kernel.gpu)
    assert kernel.config in TOY.candidates(TOY.problem(PRODUCT), kernel.gpu)


def test_it_is_explained():
    x = jax.ShapeDtypeStruct((2, 40, 9, 7), "float32")
    with pc.implementation("mosaic"):
        (chosen,) = pc.explain(jax.vmap(layer()), x, device="h100")
    assert chosen.kernel.family is TOY
    assert chosen.scope == "pallas_conv_toy_fprop_2d_bf16_bias_relu"
    (left,) = pc.explain(jax.vmap(layer()), x, device="h100")
    assert left.implementation == "xla"
    assert any("no record" in reason for reason in left.reasons)


@CONFIGS
def test_it_is_interpreted_without_races(config):
    given = operands()
    run = functools.partial(serve.kernel(PRODUCT, config=config).run, interpret=True)
    assert_right(mosaic.run_interpreted(run, *given, detect_races=True), given)


def test_a_layer_runs_through_it():
    x = jax.random.normal(jax.random.key(1), (2, 40, 9, 7))
    run = jax.vmap(layer())
    with pc.implementation("xla"):
        want = run(x)
    with pc.implementation("interpret"):
        np.testing.assert_allclose(run(x).astype("float32"), want.astype("float32"), atol=2**-6, rtol=2**-7)


@pytest.mark.aot
@CONFIGS
def test_it_is_compiled_without_spills(config):
    compiled, used = kernels.compiled(PRODUCT, config)
    assert used.kernels == 1
    assert "pallas_conv_toy" in compiled.as_text()
    assert used.spills == 0


@pytest.mark.aot
@CONFIGS
def test_its_ptx_is_emulated(config):
    given = operands()
    with emulation() as ran:
        outs = serve.kernel(PRODUCT, config=config).run(*given)
    assert_right(outs, given)
    assert len(ran.machines) == 1


def test_doctor_interprets_its_samples():
    assert interpreted.check(PRODUCT, seed=0).right


def test_doctor_would_check_it_on_a_gpu():
    row = plan.Row("suite", "toy/f", 1, PRODUCT)
    (check,) = plan.checks([row], H100)
    assert (check.family, check.facts.code_path) == ("toy", TOY.code_path(PRODUCT, check.kernel.config))
    assert "1 of 1 products of the suite" in plan.coverage(plan.proofs([check]), [check], [row])


def test_a_record_of_its_own_lets_auto_take_it(monkeypatch):
    (check,) = plan.checks([plan.Row("suite", "toy/f", 1, PRODUCT)], H100)
    known = plan.proofs([check])
    nothing = trust.Proofs({}, (), "")
    monkeypatch.setattr(trust, "proofs", lambda family, target: known.get(family, nothing))
    assert planning.plan(PRODUCT, H100, ("auto",)).implementation == "mosaic"

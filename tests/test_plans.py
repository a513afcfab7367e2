"""Plans of an equation: which lax program each kernel is compared with, and that nothing is asked twice."""

import dataclasses
import inspect

import jax
import pytest

from pallas_conv import formulations
from pallas_conv.dispatch import plan, trust
from pallas_conv.doctor import check
from pallas_conv.doctor import plan as doctor
from pallas_conv.equation import Equation, operands_of
from pallas_conv.kernels import families
from pallas_conv.target import resolve
from pallas_conv.wanted import Layer, Wanted
from tests.kernels.cases import product

H100 = resolve("h100")
VOLUMES = product("wgrad", 2, (64, 64), (16, 16, 16), 3, 1, 1)
POINTWISE = product("wgrad", 2, (64, 64), (16, 16, 16), 1)
BESIDE, ALONE = "depth_to_batch_wgrad", "stock"  # lax programs of the weight gradient of volumes


@pytest.fixture
def asked(monkeypatch):
    """Every comparison that was asked for: (role, outputs, lax program). taken: the roles whose kernels are faster."""

    class Asked(list):
        taken = ()

    found = Asked()

    def compared(kernel, target, lax):
        found.append((kernel.product.role, kernel.product.outputs, lax))
        return trust.Trust(kernel.product.role in found.taken, "made up")

    monkeypatch.setattr(plan, "_trust", compared)
    return found


def gradients(wgrad, *outputs):
    """The plans of an equation that wants these gradients of the layer whose weight gradient this is."""
    role = "bwd" if "dx" in outputs else "wgrad"
    whole = dataclasses.replace(wgrad, role=role, outputs=tuple(sorted(outputs, key=["dx", "dw", "db"].index)))
    equation, operands = Equation.of(whole, ("auto",)), operands_of(whole)
    outs = dict(equation.outs)
    return plan.plans(dataclasses.replace(equation, outs=tuple((n, outs[n]) for n in outputs)), H100, operands)


@pytest.mark.parametrize("outputs", [("dx", "dw"), ("dw", "dx")], ids=" ".join)
@pytest.mark.parametrize(
    ("taken", "lax"),
    [((), ALONE), (("dgrad",), BESIDE), (("dgrad", "wgrad"), BESIDE), (("wgrad",), ALONE)],
    ids=["none", "dgrad", "both", "wgrad"],
)
def test_a_kernel_is_compared_with_the_program_that_takes_its_place(asked, outputs, taken, lax):
    """A gradient of a gradient wants dw first."""
    asked.taken = taken
    dgrad, wgrad = gradients(VOLUMES, *outputs)
    for chosen, role in ((dgrad, "dgrad"), (wgrad, "wgrad")):
        assert (chosen.product.role, chosen.implementation) == (role, "mosaic" if role in taken else "xla")
    assert (dgrad.lax, wgrad.lax) == (ALONE, lax)
    assert wgrad.formulation == (None if "wgrad" in taken else lax)
    assert asked == [("dgrad", ("dx",), ALONE), ("wgrad", ("dw",), lax)]


@pytest.mark.parametrize(("taken", "lax"), [((), ALONE), (("dgrad",), BESIDE)])
def test_a_kernel_that_sums_biases_in_passing_is_compared_with_the_same(asked, taken, lax):
    asked.taken = taken
    gradients(VOLUMES, "dx", "dw", "db")
    assert ("wgrad", ("dw", "db"), lax) in asked


@pytest.mark.parametrize("outputs", [("dw",), ("dw", "db")], ids=" ".join)
def test_a_weight_gradient_alone_has_no_kernels_beside_it(asked, outputs):
    asked.taken = ("dgrad",)
    (wgrad,) = gradients(VOLUMES, *outputs)
    assert (wgrad.implementation, wgrad.lax) == ("xla", ALONE)
    assert {lax for _, _, lax in asked} == {ALONE}


@pytest.mark.parametrize("taken", [(), ("dgrad",)])
@pytest.mark.parametrize("outputs", [("dx", "dw"), ("dw", "dx"), ("dx", "dw", "db")], ids=" ".join)
def test_a_kernel_for_all_gradients_is_compared_with_what_runs_without_kernels(asked, outputs, taken):
    asked.taken = taken
    gradients(POINTWISE, *outputs)
    assert {lax for role, _, lax in asked if role == "bwd"} == {f"{ALONE}+{ALONE}"}


@pytest.mark.parametrize("outputs", [("dx", "dw"), ("dx", "dw", "db"), ("dw", "db"), ("dw",)], ids=" ".join)
@pytest.mark.parametrize("layer", [VOLUMES, POINTWISE], ids=["3x3x3", "1x1x1"])
@pytest.mark.parametrize("taken", [(), ("dgrad",), ("dgrad", "wgrad", "bwd")], ids=len)
def test_nothing_is_asked_twice(asked, monkeypatch, outputs, layer, taken):
    asked.taken = taken
    questions = []

    def noting(module, name):
        f = getattr(module, name)

        def noted(*args, **kwargs):
            given = inspect.signature(f).bind(*args, **kwargs)
            given.apply_defaults()
            questions.append((name, *given.args))
            return f(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)

    noting(families, "find")
    noting(formulations, "choose")
    gradients(layer, *outputs)
    assert len(set(questions)) == len(questions)
    assert len(set(asked)) == len(asked)
    assert {name for name, *_ in questions} == {"find", "choose"}


# ---------------------------------------------------------------- what doctor times


@pytest.fixture
def checks(monkeypatch):
    """The checks of the weight gradient of volumes by the lax program that its kernel is held against."""
    monkeypatch.setattr(doctor, "tiles", lambda products, target: [doctor._tile(target, p) for p in products])
    rows = doctor.rows(Wanted((Layer("volumes/w", VOLUMES), Layer("pointwise/w", POINTWISE)), ()))
    return {one.rival: one for one in doctor.checks(rows, H100) if one.product == VOLUMES}


def test_doctor_times_a_kernel_beside_each_program_that_may_take_its_place(checks):
    assert {rival: one.beside_kernels for rival, one in checks.items()} == {BESIDE: True, ALONE: False}
    assert (checks[BESIDE].name, checks[ALONE].name) == ("volumes/w beside kernels", "volumes/w")
    assert (
        sum(one.weight for one in checks.values())
        == doctor.weights(doctor.rows(Wanted((Layer("volumes/w", VOLUMES), Layer("pointwise/w", POINTWISE)), ())))[
            VOLUMES
        ]
    )


@pytest.mark.parametrize("rival", [BESIDE, ALONE])
def test_the_program_that_doctor_times_is_the_one_it_names(checks, monkeypatch, rival):
    monkeypatch.setattr(check, "_compiled", lambda f, product: jax.jit(f).lower(*operands_of(product)))
    program = check.lax_program(checks[rival], H100).as_text(debug_info=True)
    assert f"pallas_conv_wgrad_{rival}" in program
    assert f"pallas_conv_wgrad_{({BESIDE, ALONE} - {rival}).pop()}" not in program


def test_a_product_counts_as_covered_if_its_kernel_is_taken_wherever_it_stands(checks):
    rows = doctor.rows(Wanted((Layer("volumes/w", VOLUMES),), ()))
    covered = lambda *proven: doctor.coverage(doctor.proofs(proven), checks.values(), rows).partition(" products")[0]
    assert covered(checks[ALONE]) == covered(checks[BESIDE]) == "0 of 1"
    assert covered(*checks.values()) == "1 of 1"


def test_a_kernel_for_all_gradients_has_one_program_to_be_held_against():
    whole = dataclasses.replace(POINTWISE, role="bwd", outputs=("dx", "dw"))
    assert doctor.rivals(whole, H100) == {f"{ALONE}+{ALONE}": False}
    assert doctor.rivals(POINTWISE, H100) == {BESIDE: True, ALONE: False}

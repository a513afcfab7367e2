"""Plans of an equation: which lax program each kernel is compared with, and that nothing is asked twice."""

import collections
import dataclasses

import pytest

from pallas_conv import formulations
from pallas_conv.dispatch import plan, trust
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


def backward(wgrad):
    """The equation of both gradients of a layer whose weight gradient this is."""
    return Equation.of(dataclasses.replace(wgrad, role="bwd", outputs=("dx", "dw")), ("auto",))


class Asked(list):
    """Every comparison that was asked for: (role, lax program). taken: the roles whose kernels are faster."""

    taken: tuple[str, ...] = ()


@pytest.fixture
def asked(monkeypatch):
    found = Asked()

    def compared(kernel, target, lax):
        found.append((kernel.product.role, lax))
        return trust.Trust(kernel.product.role in found.taken, "made up")

    monkeypatch.setattr(plan, "_trust", compared)
    return found


def plans(equation):
    product = dataclasses.replace(VOLUMES, role=equation.primitive, spec=equation.op.spec)
    return plan.plans(equation, H100, operands_of(product))


@pytest.mark.parametrize(
    ("taken", "lax"),
    [((), ALONE), (("dgrad",), BESIDE), (("dgrad", "wgrad"), BESIDE), (("wgrad",), ALONE)],
    ids=["none", "dgrad", "both", "wgrad"],
)
def test_a_kernel_is_compared_with_the_program_that_takes_its_place(asked, taken, lax):
    asked.taken = taken
    dgrad, wgrad = plans(backward(VOLUMES))
    assert [p.implementation for p in (dgrad, wgrad)] == [
        "mosaic" if role in taken else "xla" for role in ("dgrad", "wgrad")
    ]
    assert (dgrad.lax, wgrad.lax) == (ALONE, lax)
    assert wgrad.formulation == (None if "wgrad" in taken else lax)
    assert asked == [("dgrad", ALONE), ("wgrad", lax)]


@pytest.mark.parametrize("taken", [(), ("dgrad",)])
def test_a_kernel_for_all_gradients_is_compared_with_what_runs_without_kernels(asked, taken):
    asked.taken = taken
    plans(backward(POINTWISE))
    assert ("bwd", f"{ALONE}+{ALONE}") in asked


def test_a_weight_gradient_alone_has_no_kernels_beside_it(asked):
    asked.taken = ("dgrad",)
    (wgrad,) = plans(Equation.of(VOLUMES, ("auto",)))
    assert (wgrad.implementation, wgrad.lax) == ("xla", ALONE)


def test_doctor_times_a_kernel_beside_each_program_that_may_take_its_place(monkeypatch):
    monkeypatch.setattr(doctor, "tiles", lambda products, target: [doctor._tile(target, p) for p in products])
    rows = doctor.rows(Wanted((Layer("volumes/w", VOLUMES),), ()))
    found = {check.rival: check for check in doctor.checks(rows, H100)}
    assert {rival: check.beside_kernels for rival, check in found.items()} == {BESIDE: True, ALONE: False}
    assert found[BESIDE].name == "volumes/w beside kernels"
    assert found[ALONE].name == "volumes/w"
    known = doctor.proofs([found[BESIDE]])["wgrad"]
    assert known.look_up(found[BESIDE].facts, BESIDE).trusted
    assert not known.look_up(found[ALONE].facts, ALONE).trusted


@pytest.mark.parametrize("layer", [VOLUMES, POINTWISE], ids=["3x3x3", "1x1x1"])
@pytest.mark.parametrize("taken", [(), ("dgrad",), ("dgrad", "wgrad", "bwd")], ids=len)
def test_nothing_is_asked_twice(asked, monkeypatch, layer, taken):
    asked.taken = taken
    counted = collections.Counter()

    def counting(module, name):
        f = getattr(module, name)

        def counted_too(product, *rest):
            counted[name, product, *rest[1:]] += 1
            return f(product, *rest)

        monkeypatch.setattr(module, name, counted_too)

    counting(families, "find")
    counting(formulations, "choose")
    plans(backward(layer))
    assert set(counted.values()) == {1}, counted
    assert {product.role for _, product, *_ in counted} == {"dgrad", "wgrad", "bwd"}

"""The checks of doctor, and their order: held against `trust`, and on the products that are wanted."""

import dataclasses
import itertools
import os

import pytest

from pallas_conv.dispatch import plan as planning
from pallas_conv.dispatch.record import Record, Source
from pallas_conv.doctor import plan, text
from pallas_conv.kernels import families, serve
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.family import Facts, Size
from pallas_conv.target import resolve
from pallas_conv.wanted import Layer, Use, Wanted, wanted
from tests.kernels.cases import product

H100 = resolve("h100")
PRODUCT = product("fprop", 32, (128, 128), (28, 28), 3, 1, 1, bias=True, activation="relu")
KERNEL = serve.kernel(PRODUCT)
FAMILY = KERNEL.family.name
RECORD = Record(FAMILY, "NVIDIA H100 80GB HBM3", "9.0", "", "", (Source("0", "0", "run"),), "0", {}, ())


class Another:
    """A family of kernels, of which only the name is asked."""

    name = "another"


def check(path, epilogue, size=1.0, weight=1.0, series="fprop", rival="stock"):
    facts = Facts(path, epilogue, series, Size(*[size] * 5))
    return plan.Check(f"{path} {epilogue} {size}", KERNEL, facts, rival, weight)


def of_another_family(one):
    return dataclasses.replace(one, kernel=dataclasses.replace(KERNEL, family=Another()))


def names(checks):
    return [c.name for c in checks]


def trusted(by, checks):
    """The weight of what `auto` takes after some checks."""
    known = plan.proofs(by)
    return sum(c.weight for c in checks if c.family in known and known[c.family].look_up(c.facts, c.rival).trusted)


SOME = [
    check(path, epilogue, size, 1 + 0.1 * i, series)
    for i, (path, epilogue, size, series) in enumerate(
        itertools.product(("halo", "plain"), ("relu", "silu"), (1.0, 100.0), ("fprop", "dgrad"))
    )
]


def test_each_check_is_the_one_after_which_auto_takes_the_most():
    needed, rest = plan.order(SOME)
    for i, chosen in enumerate(needed):
        best = max(trusted([*needed[:i], c], SOME) for c in SOME)
        assert trusted([*needed[:i], chosen], SOME) == pytest.approx(best)
        assert best > trusted(needed[:i], SOME)
    assert trusted(needed, SOME) == pytest.approx(trusted(SOME, SOME))
    assert 0 < len(needed) < len(SOME)
    assert sorted(names(needed + rest)) == sorted(names(SOME))


def test_what_a_check_speaks_for_needs_none_of_its_own():
    near, far, elsewhere = check("a", "relu", 1.1), check("a", "relu", 1e3), check("b", "relu")
    first, beside = check("a", "relu", weight=5), check("a", "relu", rival="padded")
    needed, rest = plan.order([near, far, elsewhere, first, beside])
    assert needed[0] == first
    assert set(needed) == {first, far, elsewhere, beside}
    assert rest == (near,)


def test_the_rest_comes_most_wanted_first():
    similar = [check("a", "relu", 1 + weight / 100, weight) for weight in (3, 1, 2)]
    _, rest = plan.order([check("a", "relu", weight=9), *similar])
    assert [c.weight for c in rest] == [3, 2, 1]


def test_nothing_wanted_is_nothing_to_do():
    assert plan.order([check("a", "relu", weight=0)]).needed == ()
    assert plan.order([]) == ((), ())


def test_what_was_found_wrong_is_not_run_again_and_all_else_is():
    known = RECORD.with_check(SOME[0].facts, right=False)
    alike = [c for c in SOME if c.facts[:2] == SOME[0].facts[:2]]
    needed, rest = plan.order(SOME, {FAMILY: known})
    assert sorted(names(needed + rest)) == sorted(names(c for c in SOME if c not in alike))


def test_what_is_known_of_one_family_says_nothing_of_another():
    ours = check("a", "relu")
    theirs = of_another_family(ours)
    assert set(plan.order([ours, theirs]).needed) == {ours, theirs}
    assert plan.order([ours, theirs], {FAMILY: RECORD.with_check(ours.facts, right=False)}) == ((theirs,), ())
    assert trusted([ours], [ours, theirs]) == ours.weight
    assert set(plan.proofs([ours, theirs])) == {FAMILY, "another"}


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 7, 9}, raising=False)
    assert plan._cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert plan._cores() == (os.cpu_count() or 1)


@pytest.mark.parametrize("right", [True, False])
def test_what_an_earlier_run_settled_is_not_needed_again(right):
    known = RECORD.with_check(SOME[0].facts, right).with_timing(plan.made_up_timing(SOME[0]))
    assert SOME[0] not in plan.order(SOME, {FAMILY: known}).needed
    assert plan.order(SOME, {FAMILY: RECORD}) == plan.order(SOME)


def test_an_earlier_check_without_a_time_leaves_the_time_to_be_found():
    known = RECORD.with_check(SOME[0].facts, right=True)
    assert plan.order([SOME[0]], {FAMILY: known}).needed == (SOME[0],)


def test_weights_are_by_number_and_by_multiply_adds():
    double = dataclasses.replace(PRODUCT, batch=64)
    rows = plan.rows(Wanted((Layer("one", PRODUCT), Layer("two", double)), (Use("net", 4, PRODUCT),)))
    found = plan.weights(rows)
    assert found[double] == pytest.approx(0.5 / 2 + 0.5 * 2 / 3)
    assert found[PRODUCT] == pytest.approx(0.5 / 2 + 0.5 * 1 / 3 + 1)
    assert [row.name for row in rows] == ["one", "two", "net/f 128x28x28-128 k3x3"]


def test_no_two_wanted_products_have_one_name():
    rows = {row.product: row.name for row in plan.rows(wanted())}
    assert len(set(rows.values())) == len(rows)
    assert "wavenet/f 128x16384-256 k2 d8" in rows.values()


def test_checks_that_start_in_time():
    late = plan.START_SECONDS + 1.5 * SOME[0].seconds
    timed = list(plan.in_time(SOME, late))
    assert [c for c, _ in timed] == SOME[:2]
    assert timed[1][1] == pytest.approx(plan.START_SECONDS + 2 * SOME[0].seconds)


def test_tiles_and_lax_programs_are_those_of_the_plan():
    rows = plan.rows(Wanted((Layer("layer", PRODUCT),), (Use("net", 1, PRODUCT),)))
    (found,) = plan.checks(rows, H100)  # one product, one check
    assert found.name == "layer"
    kernel = planning.plan(PRODUCT, H100, ("mosaic",)).to_run
    assert found.kernel == dataclasses.replace(kernel, given=kernel.config)
    assert found.rival == planning.plan(PRODUCT, H100, ("auto",)).formulation
    assert found.facts == kernel.facts
    up = dataclasses.replace(PRODUCT, spec=dataclasses.replace(PRODUCT.spec, input_dilation=(2, 2)))
    assert plan.lax_program(up, H100) != plan.lax_program(PRODUCT, H100)


TAKES_A_MINUTE = pytest.mark.timeout(900)  # more where the cores are busy: a tile for each product that is wanted


@pytest.fixture(scope="module")
def shipped():
    rows = plan.rows(wanted())
    return rows, plan.checks(rows, H100)


@pytest.mark.extended
@TAKES_A_MINUTE
def test_one_run_covers_what_is_wanted(shipped):
    """Estimated: all of both, in the minutes that a run takes by default, where nothing is known yet."""
    rows, checks = shipped
    *lines, last = text.planned(rows, checks, H100, minutes=12)
    words = last.replace(",", "").split()
    a, b, c, d, seconds = (int(word) for word in words if word.isdigit())
    assert last == f"covers {a} of {b} products of the suite, {c} of {d} of the networks, in about {seconds} s"
    assert (b, d) == (len(wanted().suite), len(wanted().networks))
    assert (a, c) == (b, d)
    assert seconds <= 720
    assert sum("|" in line for line in lines) - 1 == len(list(plan.in_time(plan.order(checks).needed, 720)))


@pytest.mark.extended
@TAKES_A_MINUTE
def test_five_minutes_cover_what_is_wanted_of_dense_kernels(shipped):
    """Estimated: at least 95% of both in at most 400 s."""
    rows, checks = ([it for it in found if families.serving(it.product) is DENSE] for found in shipped)
    *_, last = text.planned(rows, checks, H100, minutes=5)
    a, b, c, d, seconds = (int(word) for word in last.replace(",", "").split() if word.isdigit())
    assert min(a / b, c / d) >= 0.95
    assert seconds <= 400


@pytest.mark.extended
@TAKES_A_MINUTE
def test_after_all_checks_auto_takes_everything_that_is_wanted(shipped):
    rows, checks = shipped
    known = plan.proofs(plan.order(checks).needed)
    assert [c.name for c in checks if not known[c.family].look_up(c.facts, c.rival).trusted] == []
    assert plan.coverage({}, checks, rows).startswith("0 of ")

"""A run on a Hopper GPU, with lax programs in the place of kernels, and made-up times: what is said and what is recorded."""

import concurrent.futures
import dataclasses
import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from pallas_conv.dispatch import plan as planning
from pallas_conv.dispatch import record, trust
from pallas_conv.doctor import check, kept, plan, session
from pallas_conv.equation import Equation, operands_of
from pallas_conv.kernels import families
from pallas_conv.lowering import execution
from pallas_conv.target import resolve
from pallas_conv.verify.timing import Timing
from pallas_conv.wanted import Layer, Wanted
from tests.kernels.cases import product

H100 = resolve("h100")
SMALL = {"batch": 1, "channels": (24, 40), "size": (10, 7), "kernel": 3, "padding": 1}
RELU = product("fprop", **SMALL, bias=True, activation="relu")
STRIDED = product("fprop", **SMALL, stride=2, bias=True)
FAMILY = families.serving(RELU).name
LAYERS = (Layer("relu/f", RELU), Layer("strided/f", STRIDED))
SECONDS = {"kernel": 1e-3, "lax": 2e-3}


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    """Two products that are wanted, right and fast kernels, an empty cache; what a test changes, it changes here."""
    monkeypatch.setenv("PALLAS_CONV_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(session, "wanted", lambda: Wanted(LAYERS, ()))
    monkeypatch.setattr(plan, "tiles", lambda products, target: [plan._tile(target, p) for p in products])
    kernels(monkeypatch)
    times(monkeypatch)


def kernels(monkeypatch, change=lambda product, results: results):
    """Put lax programs in the place of kernels, and change their results."""

    def compile_ahead(one):
        lax = check.lax_program(one, H100)
        return check.Ahead(lambda *v: change(one.product, lax(*v)), lambda: None, check.drawing(one.product))

    monkeypatch.setattr(session, "compile_ahead", compile_ahead)


def times(monkeypatch, source="cupti", **ms):
    def measure(programs, operands):
        return {name: Timing(t := ms.get(name, SECONDS[name] * 1e3), t, t, t, 5, source) for name in programs}

    monkeypatch.setattr(check.timing, "measure", measure)


def failing(exception):
    """A change that raises for the strided product only."""

    def change(product, results):
        if product == STRIDED:
            raise exception
        return results

    return change


def chosen(product):
    return planning.plan(product, H100, ("auto",))


def needed():
    """The checks that a first run needs, in order."""
    return plan.order(plan.checks(plan.rows(Wanted(LAYERS, ())), H100)).needed


def check_of(product):
    (found,) = (c for c in needed() if c.product == product)
    return found


def users_own():
    return record.load(record.users_own(kept.begin(FAMILY, H100)))


def test_what_is_right_and_faster_is_taken_from_then_on(capsys):
    assert {chosen(layer.product).implementation for layer in LAYERS} == {"xla"}
    assert session.run(H100, minutes=5) == 0
    assert {chosen(layer.product).implementation for layer in LAYERS} == {"mosaic"}
    out = capsys.readouterr().out
    for part in ("2 of 2 are right", "2 of 2 are faster", "2.00x", "2 of 2 products of the suite", "0 of 0 of the net"):
        assert part in out
    assert str(record.users_own(users_own())) in out
    assert users_own().capability == "9.0"
    assert not users_own().evidence


def test_what_is_slower_is_recorded_and_not_taken(monkeypatch, capsys):
    times(monkeypatch, kernel=1.99)
    assert session.run(H100, minutes=5) == 0
    assert "not faster" in chosen(RELU).reasons[0]
    assert "0 of 2 are faster than XLA by 5%" in capsys.readouterr().out


def test_what_is_wrong_is_recorded_and_not_timed(monkeypatch, capsys):
    kernels(monkeypatch, lambda product, results: [jnp.roll(r, 1, -1) if product == STRIDED else r for r in results])
    assert session.run(H100, minutes=5) == 1
    assert "found wrong" in chosen(STRIDED).reasons[0]
    assert chosen(RELU).implementation == "mosaic"
    assert len(users_own().timings) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert "1 of 2 are right, 1 wrong" in out


def test_an_exception_is_neither_right_nor_wrong(monkeypatch, capsys):
    kernels(monkeypatch, failing(RuntimeError("out of memory\nand so on")))
    assert session.run(H100, minutes=5) == 1
    assert "no product near this one was timed" in chosen(STRIDED).reasons[0]
    assert right(users_own(), check_of(STRIDED)) is None
    assert chosen(RELU).implementation == "mosaic"
    out = capsys.readouterr().out
    assert "FAILED  RuntimeError: out of memory" in out
    assert "1 of 2 are right, 1 failed" in out


def test_a_kernel_that_does_not_compile_fails_by_itself(monkeypatch, capsys):
    compile_ahead = session.compile_ahead

    def broken(one):
        if one.product == STRIDED:
            raise ValueError("no such layout")
        return compile_ahead(one)

    monkeypatch.setattr(session, "compile_ahead", broken)
    assert session.run(H100, minutes=5) == 1
    assert "FAILED  ValueError: no such layout" in capsys.readouterr().out
    assert chosen(RELU).implementation == "mosaic"


def test_an_interrupted_run_leaves_what_it_proved_and_nothing_else(monkeypatch, capsys):
    first, second = needed()

    def change(product, results):
        if product == second.product:
            raise KeyboardInterrupt
        return results

    kernels(monkeypatch, change)
    assert session.run(H100, minutes=5) == 130
    assert chosen(first.product).implementation == "mosaic"
    assert chosen(second.product).implementation == "xla"
    assert right(users_own(), second) is None
    assert all(right for found in users_own().checks.values() for right in found.values())
    out = capsys.readouterr().out
    assert "interrupted" in out
    assert "1 more checks would let it take more" in out


def test_nothing_starts_when_the_time_is_over(capsys):
    assert session.run(H100, minutes=1e-9) == 0
    assert not list(record.files(FAMILY, include_user=True))
    assert "2 more checks" in capsys.readouterr().out


def test_a_second_run_goes_on_where_the_first_ended(monkeypatch):
    monkeypatch.setattr(session, "wanted", lambda: Wanted(LAYERS[:1], ()))
    session.run(H100, minutes=5)
    monkeypatch.setattr(session, "wanted", lambda: Wanted(LAYERS[1:], ()))
    session.run(H100, minutes=5)
    assert {chosen(layer.product).implementation for layer in LAYERS} == {"mosaic"}
    assert len(list(record.files(FAMILY, include_user=True))) == 1


def test_times_of_tiles_that_are_no_longer_chosen_are_found_anew():
    session.run(H100, minutes=5)
    old = users_own()
    record.save(dataclasses.replace(old, choice="another"), record.users_own(old))
    again = kept.begin(FAMILY, H100)
    assert again.checks == old.checks
    assert again.timings == ()


def test_what_was_found_wrong_stays_so_and_is_said(monkeypatch, capsys):
    kernels(monkeypatch, lambda product, results: [r + 1 for r in results])
    session.run(H100, minutes=5)
    kernels(monkeypatch)
    session.run(H100, minutes=5)
    assert "found wrong" in chosen(RELU).reasons[0]
    out = capsys.readouterr().out
    assert "neither taken nor checked until that file is deleted: 2 of them" in out
    assert "0 of 0 are right" in out  # they were not run again


def test_a_kernel_that_kills_doctor_counts_as_wrong_and_the_next_run_goes_on_without_it(monkeypatch, capsys):
    """A kill leaves the file as it is while the kernel runs."""
    first, second = needed()
    left = []

    def change(product, results):
        if product == second.product:
            left.append(users_own())
        return results

    kernels(monkeypatch, change)
    assert session.run(H100, minutes=5) == 0
    assert right(left[0], first) is True
    assert right(left[0], second) is False
    assert right(users_own(), second) is True
    record.save(left[0], record.users_own(left[0]))
    capsys.readouterr()
    kernels(monkeypatch, lambda product, results: left.append(product) or results)
    assert session.run(H100, minutes=5) == 1
    assert second.product not in left
    assert "found wrong" in chosen(second.product).reasons[0]
    assert chosen(first.product).implementation == "mosaic"
    assert "what was running when doctor was killed counts as wrong" in capsys.readouterr().out


def right(known, one):
    return known.checks.get(one.facts.code_path, {}).get(one.facts.epilogue)


def test_a_kernel_runs_on_poisoned_memory_and_before_the_program_it_is_held_against(monkeypatch):
    events = []
    lax_program, poisoning = check.lax_program, check.poisoning

    def noted(event, f):
        return lambda *v: events.append(event) or f(*v)

    (one,) = plan.checks(plan.rows(Wanted(LAYERS[:1], ())), H100)
    lax = lax_program(one, H100)
    ahead = check.Ahead(noted("kernel", lax), noted("poison", poisoning(64)), noted("draw", check.drawing(RELU)))
    assert check.examine(one, ahead, noted("lax", lax), seed=1).held.right
    assert events[:4] == ["draw", "poison", "kernel", "lax"]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_done(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PALLAS_CONV_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(plan, "tiles", lambda products, target: pytest.fail("tiles were chosen"))
    with pytest.raises(SystemExit, match=rf"{tmp_path}/file/records .*: set PALLAS_CONV_CACHE_DIR to a folder"):
        session.run(H100, minutes=5)


def test_a_folder_that_disappears_is_made_again_and_one_that_cannot_be_is_said(tmp_path):
    (first, _) = needed()
    with kept.keeping(H100) as keeper:
        keeper.convict(first)
        shutil.rmtree(tmp_path / "records")
        keeper.save()
        assert users_own() == keeper.known[FAMILY]
        shutil.rmtree(tmp_path / "records")
        (tmp_path / "records").touch()
        with pytest.raises(SystemExit, match="PALLAS_CONV_CACHE_DIR"):
            keeper.save()


def test_no_home_is_said(monkeypatch):
    monkeypatch.setattr(record.env, "read", lambda name: (_ for _ in ()).throw(RuntimeError("no home directory")))
    with pytest.raises(SystemExit, match=r"no home directory.*set PALLAS_CONV_CACHE_DIR"):
        session.run(H100, minutes=5)


def test_two_doctors_do_not_keep_one_record():
    with kept.keeping(H100), pytest.raises(SystemExit, match="another one is keeping the same record"):
        session.run(H100, minutes=5)
    assert session.run(H100, minutes=5) == 0


def test_a_file_system_without_locks_will_do(monkeypatch):
    monkeypatch.setattr(kept.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError("not implemented")))
    assert session.run(H100, minutes=5) == 0


def test_a_driver_that_does_not_answer_is_unknown(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(kept, "DRIVER_SECONDS", 0.1)
    assert kept.driver_version() == "unknown"


def test_times_by_the_clock_are_not_recorded(monkeypatch, capsys):
    times(monkeypatch, source="wall")
    assert session.run(H100, minutes=5) == 0
    assert users_own().timings == ()
    assert len(users_own().checks) == 2
    assert "CUPTI" in capsys.readouterr().out


def test_a_dead_gpu_ends_the_run(monkeypatch, capsys):
    order = needed()

    def dies(product, results):
        raise RuntimeError("illegal address")

    kernels(monkeypatch, dies)
    monkeypatch.setattr(session, "lost", lambda: RuntimeError("context is destroyed"))
    assert session.run(H100, minutes=5) == 1
    out = capsys.readouterr().out
    assert out.count("FAILED") == 1 < len(order)
    assert "no longer answers (RuntimeError: context is destroyed)" in out
    assert users_own().checks == {order[0].facts.code_path: {order[0].facts.epilogue: False}}
    monkeypatch.setattr(session, "lost", lambda: None)
    kernels(monkeypatch)
    session.run(H100, minutes=5)
    assert right(users_own(), order[1]) is True  # the next run goes on after it


def test_a_gpu_that_is_lost_before_a_kernel_ran_says_nothing_about_it(monkeypatch):
    def broken(check, target):
        raise RuntimeError("autotuning failed")

    monkeypatch.setattr(session, "lax_program", broken)
    monkeypatch.setattr(session, "lost", lambda: RuntimeError("context is destroyed"))
    assert session.run(H100, minutes=5) == 1
    assert not list(record.files(FAMILY, include_user=True))


def test_no_more_is_compiled_ahead_than_is_soon_needed():
    begun = []

    class Pool(concurrent.futures.Executor):
        def submit(self, f, *args):
            begun.append(args)

    many = plan.checks(plan.rows(Wanted(LAYERS[:1], ())), H100) * 100
    for done, _ in enumerate(session._ahead(many, Pool()), 1):
        assert len(begun) == min(100, done + session.AHEAD)


@pytest.mark.parametrize(
    "product", [RELU, STRIDED, product("fprop", **SMALL, input_dilation=2), product("dgrad", **SMALL)]
)
def test_the_program_beside_a_kernel_is_what_auto_takes_without_it(monkeypatch, product):
    """The program beside a kernel stays the same even where records say that the kernel is faster."""
    trusting = trust.Proofs({"any": {"any": True}}, (), "any")
    monkeypatch.setattr(trust.Proofs, "faster", lambda *_: trust.Trust(True, "says the test"))
    monkeypatch.setattr(trust.Proofs, "not_right", lambda *_: None)
    monkeypatch.setattr(trust, "proofs", lambda family, target: trusting)
    assert chosen(product).implementation == "mosaic"
    equation = Equation.of(product, ("auto",), plan.NO_KERNELS)
    (beside,) = execution.plans(equation, H100, operands_of(product))
    assert (beside.product, beside.implementation) == (product, "xla")
    assert beside.formulation == plan.lax_program(product, H100)


@pytest.mark.aot
def test_what_is_compiled_ahead_is_the_kernel_with_its_tile(monkeypatch):
    from compiled import aot

    (one,) = plan.checks(plan.rows(Wanted(LAYERS[:1], ())), H100)
    shapes = [jax.ShapeDtypeStruct(shape, RELU.compute_dtype) for shape in RELU.operand_shapes]
    monkeypatch.setattr(check, "_compiled", lambda f, product: aot.compile_for("h100", f, *shapes))
    assert "pallas_conv_dense_fprop_2d_bf16_s1_bias_relu" in check.compile_ahead(one).kernel.as_text()
    assert "pallas_conv_fprop_stock" in check.lax_program(one, H100).as_text()

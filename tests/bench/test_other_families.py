"""Another family of weight gradients, asked first, flows through the benchmarks, from what is wanted to what is recorded."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import workloads.paths
from bench import gate, kernels, one, paths, products, record, speed, wanted
from bench.correctness import SMALL
from bench.tune.differing import candidates, differences
from pallas_conv import equation
from pallas_conv.doctor import check, plan
from pallas_conv.kernels import families, serve
from pallas_conv.kernels.gpu import ANY_HOPPER, Gpu
from pallas_conv.kernels.serve import Kernel
from pallas_conv.target import resolve
from pallas_conv.wanted import Layer, Wanted
from tests.bench.gpu_rows import H100, context_in
from tests.kernels import together, toy
from workloads import served
from workloads.cases import suite
from workloads.models import NETWORKS

CASE = SMALL[0]
PRODUCT = CASE.products()["w"]
EXAMPLES = next(case for case in suite() if case.per_example)


@pytest.fixture(autouse=True)
def a_family_of_weight_gradients(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", (together.WEIGHTS, *families.FAMILIES))
    monkeypatch.setattr(plan, "tiles", lambda products, target: [serve.choose(product) for product in products])


def test_its_products_of_the_suite_are_asked_for_and_served():
    names = [name for name, _ in served.products()]
    assert sum(name.endswith("/w") for name in names) == sum("w" in case.directions for case in suite())
    assert set(names) - set(served.served()) == {name for name in names if "/w" not in name} - set(served.served())


def test_what_a_network_wants_has_them_beside_the_others():
    uses = wanted.uses(NETWORKS["dcgan"])
    assert {use.product.role for use in uses} == {"fprop", "dgrad", "wgrad"}
    rows = plan.rows(Wanted((), tuple(uses)))
    assert any(row.name.startswith("dcgan/w ") for row in rows)
    assert len({row.name for row in rows}) == len(rows)


def test_it_has_a_row_in_the_table_of_the_suite(capsys):
    assert kernels.main(["--only=resnet50_c2/"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(rows) == ["resnet50_c2/f", "resnet50_c2/d", "resnet50_c2/w"]
    assert rows["resnet50_c2/w"][1:3] == ["1", "2"]  # the chunks of the toy's configuration, its stages
    assert float(rows["resnet50_c2/w"][-1]) > 0


def test_one_launch_of_it_is_to_be_had():
    assert products.served(CASE, "w")
    assert one.configured(PRODUCT, ANY_HOPPER, {"chunks": 2}).config == toy.Config(2)


def test_its_operands_are_named():
    assert [a.shape for a in equation.operands_of(PRODUCT)] == list(PRODUCT.operand_shapes)
    assert [a.dtype for a in products.operands_of(PRODUCT)] == [jnp.dtype(PRODUCT.compute_dtype)] * 2


@pytest.mark.parametrize(
    ("case", "noise", "right"), [(CASE, 0.0, True), (CASE, 0.1, False), (EXAMPLES.on_cpu(), 0.0, True)]
)
def test_it_is_timed_beside_stock_if_it_is_right(case, noise, right, tmp_path, monkeypatch):
    run = lambda it, *given, **how: [
        (1 + noise) * y for y in products._without_kernels(resolve("cpu"), it.product, *given)
    ]
    monkeypatch.setattr(Kernel, "run", run)
    step = speed.compare(case, "w", H100, Gpu.of(H100), dry=False)
    rows = {row["impl"]: row for row in step.work(context_in(tmp_path))}
    assert rows["ours"].get("status", "ok") == ("ok" if right else "wrong")
    assert rows["ours"]["error"] >= 0
    assert ("lax_us" in rows["ours"]) == right
    assert rows["ours"]["family"] == "weights"


def test_the_gate_checks_it_and_a_record_files_it(tmp_path):
    step = gate.correctness(CASE, "w", Gpu(2), interpret=True)
    context = context_in(tmp_path)
    context.options.dry_run = True
    (row,) = step.work(context)
    assert (row["status"], row["family"]) == ("ok", "weights")
    row |= {"kind": "correctness", "name": "small_3x3/w"}
    device = {
        "kind": "device", "status": "ok", "name": "device", "platform": "gpu", "device_kind": "NVIDIA H100",
        "compute_capability": "9.0", "driver": "1", "jax": jax.__version__, "date": "2026-01-01",
        "code": {"weights": "c"}, "choice": {"weights": "d"},
    }  # fmt: skip
    (found,) = record.derived({"rows.jsonl": [device, row]})
    assert (found.family, found.checks) == ("weights", {"together": {"None": True}})


def test_doctor_holds_it_against_what_auto_runs_otherwise():
    (it,) = plan.checks(plan.rows(Wanted((Layer("small/w", PRODUCT),), ())), H100)
    assert (it.family, it.rival) == ("weights", "stock")
    ahead = check.compile_ahead(it)
    drawn = ahead.draw(1)
    lax = products._without_kernels(resolve("cpu"), PRODUCT, *drawn)
    held = check.hold(PRODUCT, drawn, ahead.kernel(*drawn), lax, 1)
    assert held.right


def test_candidates_of_a_family_differ_in_fields_of_its_configurations(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", (toy.TOY, *families.FAMILIES))
    (product,) = toy.TOY.samples
    found = candidates(product, ANY_HOPPER)
    assert {it.config.chunks for it in found} == {1, 2}
    assert [it.differs for it in found] == [(), ("chunks",)]
    assert differences(*(it.config for it in found)) == ("chunks",)


def test_a_case_of_its_code_path_is_small_and_takes_several_tiles(monkeypatch, tmp_path):
    monkeypatch.setattr(families, "FAMILIES", (toy.TOY, *families.FAMILIES))
    large = dataclasses.replace(toy.TOY.samples[0], batch=64)
    kernel = serve.kernel(large, config=toy.Config(2))
    (case,) = paths.representatives([kernel, kernel])
    assert case.name == paths.case_name(kernel)
    assert paths.proves(case.kernel) == paths.proves(kernel)
    small, tiles = case.product, toy.TOY.problem(case.product).tiles(case.config)
    assert np.prod([small.batch, *small.spec.in_spatial]) < np.prod([large.batch, *large.spec.in_spatial])
    stages = toy.TOY.work(toy.TOY.problem(small), case.config, case.kernel.gpu).stages
    assert paths.WORKERS * stages < math.prod(tiles) <= paths.WORKERS * (stages + 1)  # the ring's slots are used again
    (tmp_path / "paths.json").write_text(paths.text([case]))
    assert workloads.paths.cases(tmp_path / "paths.json") == (case,)

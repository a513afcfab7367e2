"""The rules against every committed measurement, and what they promise on other platforms."""

import collections
import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import pytest

import pallas_conv as pc
from pallas_conv import formulations, target
from pallas_conv.formulations import catalogue
from pallas_conv.spec import ConvSpec, Product
from pallas_conv.target import Target
from workloads.cases import suite
from workloads.programs import timed_as

CPU = Target("cpu")
RESULTS = pathlib.Path(__file__).parents[2] / "bench" / "results"
SAID = " ".join((RESULTS.parents[1] / "docs" / "guide" / "cpu.md").read_text().split())
FILES = sorted(RESULTS.glob("formulations_*.jsonl"))


@dataclasses.dataclass(frozen=True)
class Row:
    """A product, what its programs took, and on what. `name` is the same wherever it was measured with as many threads."""

    name: str
    product: Product
    ms: dict[str, float]
    target: Target

    @property
    def ratio(self) -> float:
        """Stock's time by that of what is chosen today."""
        chosen, _ = formulations.choose(self.product, self.target)
        return self.ms[formulations.STOCK] / self.ms[timed_as(chosen)]


def product_from_json(row: Mapping[str, Any]) -> Product:
    spec = ConvSpec(**{k: _tuples(v) for k, v in row["spec"].items()})
    return Product(**{k: _tuples(v) for k, v in row.items()} | {"spec": spec})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def measurements(path: pathlib.Path) -> list[Row]:
    rows, target = [], Target("cpu")
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "machine" in row:
            target = Target("cpu", amx=row["machine"].get("amx", False))
        else:
            name = f"{row['layer']} {row['direction']}, {row['threads']} threads"
            rows.append(Row(name, product_from_json(row["product"]), row["ms"], target))
    return rows


def test_there_are_measurements_of_the_suite_and_of_random_layers():
    """The suite with one thread and with two; random layers that the rules were fitted to, and others."""
    lines = [json.loads(line) for path in FILES for line in path.read_text().splitlines()]
    runs = [line for line in lines if "machine" in line]
    assert {(run["arguments"]["layers"], run["machine"]["threads"]) for run in runs} == {
        ("random", 2),
        ("dense", 2),
        ("suite", 1),
        ("suite", 2),
    }
    assert {(run["arguments"]["dtype"]) for run in runs if run["arguments"]["layers"] == "dense"} == {
        "float32",
        "bfloat16",
    }
    for stem, least in (("random_unseen", 3 * 150), ("dense_unseen", 3 * 100)):
        assert len(measurements(RESULTS / f"formulations_{stem}.jsonl")) >= least


def current(path: pathlib.Path) -> list[Row]:
    """The rows without products for which a program is chosen today that was not among those that were timed at first."""
    renewed = RESULTS / "formulations_renewed.jsonl"
    anew = {row.name for row in measurements(renewed)} if path != renewed else set()
    rows = measurements(path)
    if path == renewed:
        rows = list({row.name: row for row in rows}.values())  # the last time each was measured
    return [row for row in rows if row.name not in anew]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_nothing_measured_gets_slower(path):
    ratios = {row.name: row.ratio for row in current(path)}
    slower = {name: round(r, 2) for name, r in ratios.items() if r < 0.95}
    assert len(slower) <= 0.03 * len(ratios), slower
    assert min(ratios.values()) >= 0.8, slower


def test_layers_that_the_rules_had_not_seen_as_the_page_has_them():
    rows = {row.name: row for row in measurements(RESULTS / "formulations_random_unseen.jsonl")}
    rows |= {row.name: row for row in measurements(RESULTS / "formulations_renewed.jsonl") if row.name in rows}
    ratios = [row.ratio for row in rows.values()]
    cut = lambda value, digits: f"{math.floor(value * 10**digits) / 10**digits:.{digits}f}"
    kept = cut(100 * sum(r >= 0.95 for r in ratios) / len(ratios), 1)
    assert f"of the {len(ratios)} products of those {kept}% were not below 0.95x" in SAID
    mean = math.exp(statistics.mean(map(math.log, ratios)))
    assert f"none was below {cut(min(ratios), 2)}x, and the geometric mean was {cut(mean, 1)}x" in SAID


@pytest.mark.parametrize(("stem", "version"), [("suite_2threads", "0.11"), ("suite_jax12", "0.12")])
def test_the_suite_with_either_version_of_jax_as_the_page_has_it(stem, version):
    path = RESULTS / f"formulations_{stem}.jsonl"
    machines = [row["machine"] for line in path.read_text().splitlines() if "machine" in (row := json.loads(line))]
    assert all(machine["jax"].startswith(version) for machine in machines)
    ratios = [row.ratio for row in current(path)]
    mean = math.exp(statistics.mean(map(math.log, ratios)))
    assert f"{mean:.1f}x with JAX {machines[0]['jax']}" in SAID
    assert f"Over {len(ratios)} products of the suite" in SAID


@pytest.mark.parametrize("path", [p for p in FILES if "suite" in p.stem], ids=lambda p: p.stem)
def test_the_slow_families_get_their_fast_programs(path):
    """Geometric means of the products of each family, all batch sizes together."""
    found = collections.defaultdict(list)
    for row in current(path):
        if row.product.compute_dtype == "float32":
            found[family(row.product)].append(math.log(row.ratio))
    means = {name: math.exp(statistics.mean(logs)) for name, logs in found.items()}
    floors = {"transposed": 4, "grouped": 10, "depthwise": 8, "dense 3-D": 2}
    assert not {name: means[name] for name, least in floors.items() if means[name] < least}, means


def family(product: Product) -> str:
    spec = product.spec
    if spec.groups > 1:
        return "depthwise" if spec.groups == product.in_channels else "grouped"
    if max(spec.input_dilation) > 1:
        return "transposed"
    return "dense 3-D" if spec.ndim == 3 else "dense"


@pytest.mark.parametrize("name", ["tpu", "rocm"])
def test_where_nothing_was_measured_the_program_is_stocks(name):
    for case in suite():
        for product in case.products().values():
            chosen, why = formulations.choose(product, target.resolve(name))
            assert chosen == formulations.STOCK
            assert why


def test_a_program_that_needs_too_much_memory_is_not_chosen():
    """col2im keeps the results of all taps: for 4x4 of them and a stride of two, four times the output."""
    for side, name in ((32, "col2im"), (256, formulations.CHANNELS_LAST)):
        spec = ConvSpec((1, 1), ((2, 2), (2, 2)), (2, 2), (1, 1), 1, (side, side), (4, 4))
        product = Product("fprop", spec, 1, 64, 64, "float32", "float32")
        assert formulations.choose(product, CPU)[0] == name


def test_every_formulation_can_be_chosen():
    """Every formulation is chosen by the rules of some platform, or it would be dead code."""
    products = [row.product for path in FILES for row in measurements(path)]
    products += [product for case in suite() for product in case.products().values()]
    hopper = target.resolve("h100")
    places = ((CPU, False), (Target("cpu", amx=True), False), (hopper, False), (hopper, True))
    chosen = {formulations.choose(p, *place)[0] for p in products for place in places}
    assert chosen >= set(catalogue.FORMULATIONS), set(catalogue.FORMULATIONS) - chosen


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("role", ["fprop", "dgrad", "wgrad"])
def test_examples_side_by_side_are_not_left_to_groups(role, dtype):
    """Examples are so many groups to XLA, whatever their size, and in float64 it multiplies zeros between all of them."""
    plain = ConvSpec((1,), ((1, 1),), (1,), (1,), 1, (12,), (3,))
    transposed = ConvSpec((1,), ((2, 2),), (2,), (1,), 1, (12,), (4,))
    for spec in (plain, transposed):
        product = Product(role, spec, 1, 1, 8, dtype, dtype, models=511)
        assert formulations.choose(product, CPU)[0] not in formulations.LIKE_STOCK
        tiny = Product(role, spec, 1, 1, 8, dtype, dtype)
        assert formulations.choose(tiny, CPU)[0] in formulations.LIKE_STOCK


def test_per_example_gradients_in_float64_need_little_memory():
    """511 of them took 200 MB."""
    with jax.enable_x64(True):
        layer = pc.Conv1d(1, 8, 3, padding=1, dtype="float64", key=jax.random.key(0))
        loss = lambda w, x: (eqx.tree_at(lambda layer: layer.weight, layer, w)(x) ** 2).sum()
        x = jax.ShapeDtypeStruct((511, 1, 12), "float64")
        gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0))).lower(layer.weight, x).compile()
    assert gradients.memory_analysis().temp_size_in_bytes < 4e6

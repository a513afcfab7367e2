"""Every code path that is chosen for what users want is checked as a whole, on the ladder or by a case of its own."""

import dataclasses
import functools

import pytest

from bench import paths
from pallas_conv.kernels import serve
from pallas_conv.kernels.cost import Work
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.serve import Kernel
from pallas_conv.kernels.wgrad import WEIGHT_GRADIENT
from pallas_conv.spec import ConvSpec, Product
from pallas_conv.wanted import wanted
from workloads.configured import Case
from workloads.ladder import CASES
from workloads.paths import FILE, cases

LEAST = 0.95  # of products
NETWORKS = sorted({use.network for use in wanted().networks})
QUICK = ("dcgan", "resnet18")  # networks whose tiles are chosen in seconds
COMMITTED = pytest.mark.parametrize("case", cases(), ids=str)


def named(source: str) -> dict[str, Product]:
    """The products of the suite, or of a network."""
    if source == "suite":
        return {layer.name: layer.product for layer in wanted().suite}
    uses = [use for use in wanted().networks if use.network == source]
    return {f"{source}[{i}]": use.product for i, use in enumerate(uses)}


@functools.cache
def checked() -> set[str]:
    return set().union(*(paths.proves(case.kernel) for case in (*CASES, *cases())))


@pytest.mark.parametrize(
    "source",
    ["suite", *(name if name in QUICK else pytest.param(name, marks=pytest.mark.extended) for name in NETWORKS)],
)
def test_what_is_chosen_is_checked(source):
    rest = {}
    for name, product in named(source).items():
        if missing := paths.proves(serve.kernel(product)) - checked():
            rest[name] = missing
    assert len(rest) <= (1 - LEAST) * len(named(source)), f"`python -m bench.paths` makes cases for {rest}"


@COMMITTED
def test_cases_are_served_on_the_path_that_names_them(case):
    family = case.kernel.family
    assert family.illegal(family.problem(case.product), case.config, case.kernel.gpu) is None
    assert case.name == paths.case_name(case.kernel)


@pytest.mark.parametrize("case", [case for case in cases() if case.kernel.family is DENSE], ids=str)
def test_each_worker_takes_several_tiles_some_ragged(case):
    problem = Problem.of(case.product)
    t = tiling(problem, case.config)
    assert t.workers(case.num_sms) == paths.WORKERS
    assert t.work_tiles > paths.WORKERS
    sizes = problem.batch, *(d.rows for d in problem.dims)
    assert any(size % extent for size, extent in zip(sizes, t.cta_pixels, strict=True))


OTHERS = [case for case in cases() if case.kernel.family is not DENSE]


def exercised(case: Case) -> tuple[paths.Exercises, Work]:
    family = case.kernel.family
    work = family.work(family.problem(case.product), case.config, case.kernel.gpu)
    return paths.exercises(case.product, work), work


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_no_case_has_more_parts_than_it_needs(case):
    assert getattr(case.config, "split_k", 1) <= 3


def test_nearly_all_cases_go_on_to_another_tile_sum_over_steps_and_use_slots_again():
    """Some products are too small for it, however they are served."""
    found = [exercised(case) for case in OTHERS]
    assert sum(done.tiles > 1 for done, _ in found) >= 0.95 * len(found)
    assert sum(done.loads > work.stages for done, work in found) >= 0.95 * len(found)
    steps = [done.steps for case, (done, _) in zip(OTHERS, found, strict=True) if case.kernel.family is WEIGHT_GRADIENT]
    assert sum(of_a_tile > 1 for of_a_tile in steps) >= 0.95 * len(steps)


def test_a_case_is_as_small_as_it_can_be_without_losing_taps_or_parts():
    kernel = serve.kernel(named("suite")["resnet50_c4/w"])
    case = paths.smallest(kernel)
    assert case.config == dataclasses.replace(kernel.config, split_k=2)
    assert kernel.config.split_k > 2
    done, work = exercised(case)
    assert done == paths.Exercises(tiles=2, steps=2, loads=work.stages + 1, taps=(3, 3))


@pytest.mark.parametrize(
    ("size", "padding", "up", "step", "stride", "taps"),
    [
        (1, (1, 1), 1, 1, 1, 1),  # only the middle one
        (2, (1, 1), 1, 1, 1, 3),
        (4, (4, 0), 1, 2, 1, 2),  # causal: the first would read the pixel four before
        (2, (2, 2), 2, 1, 1, 3),
        (3, (0, 0), 2, 1, 2, 2),  # the middle one reads the zeros between pixels
    ],
)
def test_taps_that_meet_pixels(size, padding, up, step, stride, taps):
    spec = ConvSpec((stride,), (padding,), (up,), (step,), groups=1, in_spatial=(size,), kernel_spatial=(3,))
    assert paths.taps_that_meet_pixels(spec, 0) == taps


def test_a_case_is_smaller_than_what_it_stands_for():
    product = named("suite")["unet_mid/f"]
    small = paths.shrunk(serve.kernel(product)).product
    assert small.in_channels < product.in_channels
    assert small.out_channels < product.out_channels
    assert small.spec.in_spatial < product.spec.in_spatial


def test_one_case_for_each_path_and_each_epilogue():
    layers = named("suite")
    names = ("resnet50_c4/f", "resnet50_c4/d", "unet_mid/f", "sdvae_b1/f")
    kernels: list[Kernel] = [serve.kernel(layers[name], config=Config((1, 8, 8), 64)) for name in names]
    found = paths.representatives(kernels)
    path = kernels[0].facts.code_path
    assert [case.name for case in found] == [f"{path}, bf16 {tail}" for tail in ("bias", "linear", "bias_silu")]


@pytest.mark.extended
@pytest.mark.timeout(280)
def test_the_committed_file_is_as_the_command_writes_it(tmp_path):
    assert paths.main([f"--out={tmp_path / 'paths.json'}"]) == 0
    assert FILE.read_text() == (tmp_path / "paths.json").read_text()


def test_cases_are_data(tmp_path):
    case = Case("one", named("suite")["resnet50_c2/f"], Config((1, 8, 8), 64, halo=True), num_sms=3)
    (tmp_path / "paths.json").write_text(paths.text([case]))
    assert cases(tmp_path / "paths.json") == (case,)
    (tmp_path / "paths.json").write_text(paths.text([case]).replace('"tile_n":64', '"tile_n":null'))
    with pytest.raises(ValueError, match=r"paths\.json\[0\]\.config\.tile_n must be int, not None"):
        cases(tmp_path / "paths.json")

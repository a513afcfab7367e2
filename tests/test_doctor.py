"""The doctor: right kernels pass, wrong ones do not, and what a GPU run would record."""

import json

import jax
import pytest

from pallas_conv import doctor, execution, plan
from pallas_conv.kernels import support
from pallas_conv.target import resolve
from pallas_conv.verify.timing import Timing

INTERPRET = execution._interpret
RELU = doctor.Convolution("fprop", bias=True, activation="relu")
STRIDED = doctor.Convolution("fprop", 2, bias=True)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    doctor.compiled.cache_clear()


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """One variant only, an empty cache, no environment left behind."""
    monkeypatch.setattr(doctor, "INTERPRETED", (RELU,))
    monkeypatch.setenv("PALLAS_CONV_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PALLAS_CONV_DETECT_RACES", "1")
    return tmp_path


def test_without_a_gpu_it_says_so_and_checks_the_interpreter(alone, capsys):
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "there is no GPU here" in out
    assert "dense_fprop_2d_bf16_s1_bias_relu" in out
    assert "1 of 1 variants are right" in out
    assert not list(alone.rglob("*.json"))  # nothing was proven about any GPU


def test_a_wrong_kernel_is_found_and_fails(alone, monkeypatch, capsys):
    wrong = lambda chosen, *operands: [jax.numpy.roll(r, 1, -1) for r in INTERPRET(chosen, *operands)]
    monkeypatch.setattr(execution, "_interpret", wrong)
    assert doctor.main() == 1
    assert "WRONG" in capsys.readouterr().out


def test_an_exception_is_a_finding(monkeypatch):
    def broken(chosen, *operands):
        raise RuntimeError("no tile fits")

    monkeypatch.setattr(execution, "_interpret", broken)
    finding = doctor.check("bfloat16", STRIDED, "interpret", 0, resolve(None))
    assert not finding.correct
    assert "no tile fits" in finding.error


def test_on_a_hopper_gpu_it_times_and_records_what_auto_then_trusts(alone, monkeypatch, capsys):
    """With the interpreter in the place of the GPU, and made-up times."""
    h100 = resolve("h100")
    small, large = doctor.SMALL[1], doctor.Size(2, 16, 32, (16, 16))
    for name, value in {
        "resolve": lambda device: h100,
        "CONVOLUTIONS": (RELU,),
        "OF_FLOAT32": (),
        "OF_FLOAT16": (),
        "SMALL": doctor.SMALL[:1],
        "MEDIUM": (),
        "TYPICAL": (small, large),
        "compiled": lambda product, name: doctor.program(product, "interpret" if name == "mosaic" else name),
    }.items():
        monkeypatch.setattr(doctor, name, value)
    kernels = iter([1.0, 3.0])  # milliseconds

    def measure(programs, operands):
        timing = lambda ms: Timing(ms, ms, ms, ms, 5, "cupti")
        assert plan.plan(doctor.problem("bfloat16", RELU, small), h100, ("auto",)).implementation == "xla"  # not yet
        return {"kernel": timing(next(kernels)), "lax": timing(2.0)}

    monkeypatch.setattr(doctor, "measure", measure)
    assert doctor.main() == 0
    assert "in 1 of 2 timings" in capsys.readouterr().out
    (path,) = alone.rglob("*.json")
    record = json.loads(path.read_text())
    assert record["device_kind"] == h100.device_kind
    fast, slow = (doctor.problem("bfloat16", RELU, size) for size in (small, large))
    assert plan.plan(fast, h100, ("auto",)).implementation == "mosaic"
    assert "slower" in plan.plan(slow, h100, ("auto",)).reasons[0]
    pointwise = doctor.problem("bfloat16", RELU, doctor.Size(64, 512, 512, (7, 7), 1))
    assert "tiles of this kind" in plan.plan(pointwise, h100, ("auto",)).reasons[0]


@pytest.mark.parametrize(
    ("convolution", "name"), [(RELU, "xla"), (STRIDED, "xla"), (doctor.Convolution("fprop", up=2, bias=True), "auto")]
)
def test_a_kernel_is_timed_against_what_auto_takes_without_it(convolution, name):
    """Not against stock's transposed convolution, which is slower than XLA's best."""
    product = doctor.problem("bfloat16", convolution, doctor.TYPICAL[0])
    h100 = resolve("h100")
    assert doctor.lax_program(product, h100) == name
    best, stock = (plan.plan(product, h100, (n,)).formulation for n in ("auto", "xla"))
    assert (best != stock) == (name == "auto")


def test_what_a_run_that_is_cut_off_did_not_check_is_not_trusted(alone, monkeypatch):
    h100 = resolve("h100")
    monkeypatch.setattr(doctor, "resolve", lambda device: h100)

    def cut_off(jobs):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "compile_ahead", cut_off)
    with pytest.raises(KeyboardInterrupt):
        doctor.main()
    reasons = plan.plan(doctor.problem("bfloat16", RELU, doctor.TYPICAL[0]), h100, ("auto",)).reasons
    assert "not found right" in reasons[0]


def test_every_convolution_it_checks_has_a_kernel_and_a_variant_of_its_own():
    variants = list(doctor._variants(hopper=True))
    problems = [doctor.problem(*variant, size) for variant in variants for size in doctor.sizes(on_gpu=True)]
    assert not any(support.reasons(p, support.CAPABILITY) for p in problems)
    assert len({support.variant(p) for p in problems}) == len(variants)


def test_it_covers_the_training_steps_of_networks():
    """Input gradients of float32 activations in mixed precision, pre-activations that silu and gelu keep, float32 alone."""
    checked = {support.variant(doctor.problem(*v, doctor.SMALL[0])) for v in doctor._variants(hopper=True)}
    mixed = ("dgrad_2d_bf16f32_s1_linear", "fprop_2d_bf16_s1_bias_silu_yz", "fprop_2d_bf16_s1_bias_gelu_yz")
    for variant in (*mixed, "dgrad_2d_f32_s1_linear", "fprop_2d_f32_s1_bias_silu_yz"):
        assert f"dense_{variant}" in checked

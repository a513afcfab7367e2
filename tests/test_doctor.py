"""The doctor: right kernels pass, wrong ones do not, and what a GPU run would record."""

import json

import jax
import pytest

from pallas_conv import doctor, execution, trust
from pallas_conv.kernels import support
from pallas_conv.target import resolve
from pallas_conv.verify.timing import Timing

INTERPRET, OPERANDS = execution._interpret, doctor.operands
RELU, STRIDED = doctor.CONVOLUTIONS[2], doctor.CONVOLUTIONS[6]


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
    finding = doctor.check("bfloat16", STRIDED, "interpret", seed=0)
    assert not finding.correct
    assert "no tile fits" in finding.error


def test_on_a_hopper_gpu_it_times_and_records_what_auto_then_trusts(alone, monkeypatch, capsys):
    """With the interpreter in the place of the GPU, and made-up times."""
    h100 = resolve("h100")
    monkeypatch.setattr(doctor, "resolve", lambda device: h100)
    monkeypatch.setattr(doctor, "CONVOLUTIONS", (RELU,))
    monkeypatch.setattr(doctor, "DTYPES", ("bfloat16",))
    small, large = doctor.SMALL[1], (64, 512, 512, (56, 56))
    monkeypatch.setattr(doctor, "SMALL", doctor.SMALL[:1])
    monkeypatch.setattr(doctor, "TYPICAL", (small, large))
    monkeypatch.setattr(doctor, "operands", lambda product, seed: OPERANDS(product, seed) if product.batch < 64 else [])
    kernels = iter([1.0, 3.0])  # milliseconds

    def measure(programs, operands):
        timing = lambda ms: Timing(ms, ms, ms, ms, 5, "wall")
        return {"mosaic": timing(next(kernels)), "xla": timing(2.0)}

    monkeypatch.setattr(doctor, "measure", measure)
    program = doctor.program
    monkeypatch.setattr(
        doctor, "program", lambda product, name: program(product, "interpret" if name == "mosaic" else name)
    )
    assert doctor.main() == 0
    assert "in 1 of 2 timings" in capsys.readouterr().out
    (path,) = alone.rglob("*.json")
    assert json.loads(path.read_text())["device_kind"] == h100.device_kind
    assert trust.verdict(doctor.problem("bfloat16", RELU, small), h100).trusted
    assert not trust.verdict(doctor.problem("bfloat16", RELU, large), h100).trusted


def test_every_convolution_it_checks_has_a_kernel_and_a_variant_of_its_own():
    problems = [doctor.problem(d, c, s) for d in doctor.DTYPES for c in doctor.CONVOLUTIONS for s in doctor.TYPICAL]
    assert not any(support.reasons(p, support.CAPABILITY) for p in problems)
    assert len({support.variant(p) for p in problems}) == len(doctor.DTYPES) * len(doctor.CONVOLUTIONS)

"""Doctor without a Hopper GPU: right kernels pass, wrong ones do not."""

import jax
import pytest

from pallas_conv.__main__ import main
from pallas_conv.doctor import interpreted
from pallas_conv.kernels import families
from pallas_conv.lowering import execution

INTERPRET = execution._interpret


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """One kernel only, an empty cache, no environment left behind."""
    first = families.FAMILIES[0]
    monkeypatch.setattr(families, "FAMILIES", (first,))
    monkeypatch.setattr(first, "samples", first.samples[:1])
    monkeypatch.setenv("PALLAS_CONV_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PALLAS_CONV_DETECT_RACES", "1")
    return tmp_path


def test_it_says_so_and_checks_the_interpreter(alone, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for part in ("there is no GPU here", "dense_fprop_2d_bf16_s1_bias_relu", "1 of 1 kernels are right"):
        assert part in out
    assert not list(alone.rglob("*.json"))  # nothing was proven about any GPU


def test_a_wrong_kernel_fails(monkeypatch, capsys):
    wrong = lambda chosen, *operands: [jax.numpy.roll(r, 1, -1) for r in INTERPRET(chosen, *operands)]
    monkeypatch.setattr(execution, "_interpret", wrong)
    assert interpreted.run() == 1
    assert "WRONG" in capsys.readouterr().out


def test_an_exception_is_said(monkeypatch, capsys):
    def broken(chosen, *operands):
        raise RuntimeError("no tile fits")

    monkeypatch.setattr(execution, "_interpret", broken)
    assert interpreted.run() == 1
    assert "FAILED  RuntimeError: no tile fits" in capsys.readouterr().out

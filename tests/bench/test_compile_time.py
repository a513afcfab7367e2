"""`bench.compile_time` compiles what it says, and says where ours takes too long."""

import json

import pytest

from bench import compile_time
from workloads.models import NETWORKS

PROGRAMS = {program.name: program for program in compile_time.programs()}


def test_layers_and_networks_are_compiled():
    kinds = [program.kind for program in PROGRAMS.values()]
    assert kinds.count("network") == 2 + len(NETWORKS)
    assert kinds.count("layer") > compile_time.COUNT + 35
    assert len(PROGRAMS) == len(kinds)


HIFIGAN = pytest.param("HiFi-GAN generator", marks=pytest.mark.extended)  # sixty layers


@pytest.mark.parametrize("name", [HIFIGAN, "eight MBConv 7x7", "depthwise_1d_k8_d128"])
def test_steps_can_be_traced(name):
    f, arguments = PROGRAMS[name].step(compile_time.pc.convert)
    assert "conv_bwd" in str(compile_time.jax.make_jaxpr(f)(*arguments))


@pytest.mark.parametrize(("ours_s", "code"), [(0.29, 0), (0.31, 1)])
def test_what_takes_too_long_is_said(monkeypatch, tmp_path, ours_s, code):
    """A layer whose stock program takes 0.05 s may take 0.3 s."""
    monkeypatch.setattr(compile_time, "programs", lambda: [PROGRAMS["resnet50_c2"]])
    times = iter([9.0, 0.05, ours_s, 0.06, ours_s + 1])  # the first compiles once for nobody
    monkeypatch.setattr(compile_time, "seconds", lambda step: next(times))
    out = tmp_path / "out" / "compile.json"
    assert compile_time.main(["--times", "2", "--out", str(out)]) == code
    (row,) = json.loads(out.read_text())["programs"]
    assert row == {"name": "resnet50_c2", "kind": "layer", "stock_s": 0.05, "ours_s": ours_s, "within": code == 0}


def test_a_program_is_compiled_anew_each_time(monkeypatch):
    compiled = []
    monkeypatch.setattr(compile_time.jax, "clear_caches", lambda: compiled.append("cleared"))
    step = (lambda x: x + 1, (compile_time.jnp.zeros(3),))
    assert compile_time.seconds(step) > 0
    assert compiled == ["cleared"]

"""`python -m pallas_conv`: its commands, and what it says to what was mistyped."""

import os
import subprocess
import sys

import pytest

from pallas_conv.__main__ import main
from pallas_conv.dispatch import command as command_explain
from pallas_conv.doctor import command

MODULE = """
import jax, jax.numpy as jnp, pallas_conv as pc

layer = pc.Conv2d(16, 32, 3, padding=1, dtype=jnp.bfloat16, key=jax.random.key(0))
strict = pc.Conv2d(6, 18, 65, padding=32, dtype=jnp.bfloat16, implementation="mosaic", key=jax.random.key(0))
number = 3

class Steps:
    @staticmethod
    def forward(x):
        return jax.vmap(layer)(x)

def nothing():
    return layer(jnp.ones((16, 8, 8), jnp.bfloat16))

def apart(x):
    return jnp.dot(x, jnp.ones(7))
"""
SHAPE = "bfloat16[4,16,8,8]"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the current folder that no test imported before."""
    name = f"module_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return name


def status(*arguments):
    """The exit status, also of a command line that argparse refuses."""
    try:
        return main(list(arguments))
    except SystemExit as error:
        return error.code


def test_explain_prints_the_plans_of_a_function_of_this_folder(module, capsys):
    assert status("explain", f"{module}:Steps.forward", "--device", "NVIDIA H100 PCIe", "--arg", SHAPE) == 0
    out = capsys.readouterr().out
    assert "1 product of convolutions on NVIDIA H100 PCIe" in out
    assert "fprop 16x8x8 -> 32x8x8, batch 4, kernel 3x3, bfloat16, bias" in out


def test_a_layer_is_a_function_too_and_a_function_may_have_no_arguments(module, capsys):
    assert status("explain", f"{module}:layer", "--arg", "bfloat16[16,8,8]", "--device", "h100") == 0
    assert status("explain", f"{module}:nothing") == 0
    assert capsys.readouterr().out.count("1 product of convolutions") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{}"], "must be module:function"),
        (["{}:nowhere"], "has no 'nowhere'; it has layer, strict, Steps, nothing, apart"),
        (["math:sinn"], "the module 'math' has no 'sinn'; it has sin, sinh, asin"),
        (["math:sin.nope"], "the module 'math' has no 'sin.nope'"),
        (["equinox.nn:Conv2d"], "equinox.nn:Conv2d is a class: name an instance or a function"),
        (["{}:number"], "is of type int: name a function"),
        (["no_such_module:f"], "no module 'no_such_module' in"),
        (["{}:Steps.forward"], "give a --arg for each argument, such as --arg 'bfloat16[8,64,56,56]'"),
        (["{}:nothing", "--arg", SHAPE], "too many positional arguments"),
        (["{}:layer", "--arg", "bfloat16(16,8,8)"], "must be a dtype and a shape, as in 'bfloat16[8,64,56,56]'"),
        (["{}:layer", "--arg", "bf[16,8,8]"], "there is no dtype 'bf'"),
        (["{}:layer", "--arg", SHAPE, "--device", "h1000"], "'NVIDIA H100 PCIe'"),
    ],
)
def test_what_was_mistyped_is_named_with_the_fix(module, arguments, said, capsys):
    assert status("explain", *(a.format(module) for a in arguments)) == 2
    assert said in capsys.readouterr().err


def test_what_a_strict_implementation_does_not_serve_is_said(module, capsys):
    assert status("explain", f"{module}:strict", "--device", "a100", "--arg", "bfloat16[6,9,9]") == 1
    assert "at most 64 a side" in capsys.readouterr().err


def test_an_error_in_the_function_is_said_with_its_line(module, tmp_path, capsys):
    asked = ["explain", f"{module}:apart", "--arg", "float32[8]"]
    assert status(*asked) == 1
    said, at, more = capsys.readouterr().err.splitlines()
    assert said.startswith("pallas_conv explain: TypeError: ")
    assert at.startswith(f"  {tmp_path}/{module}.py:")
    assert at.endswith("in apart: return jnp.dot(x, jnp.ones(7))")
    assert "--traceback" in more
    with pytest.raises(TypeError):
        main([*asked, "--traceback"])


def test_a_module_that_another_one_lacks_is_that_ones_matter(tmp_path, module):
    (tmp_path / "importing.py").write_text("import nothing_of_the_kind")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_the_kind"):
        main(["explain", "importing:f"])


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [("float32[]", (), "float32"), (" int32[8] ", (8,), "int32"), ("bool[2, 3,]", (2, 3), "bool")],
)
def test_shapes(text, shape, dtype):
    found = command_explain._shape(text)
    assert (found.shape, found.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plan", "a100"], "no kernel runs on NVIDIA A100-SXM4-80GB (compute capability 8.0): name a Hopper GPU"),
        (["--plan", "cpu"], "no kernel runs on cpu"),
        (["--plan", "h1000"], "'NVIDIA H100 PCIe'"),
        (["--minutes", "0"], "minutes must be a positive number, such as 5 or 0.5, not '0'"),
        (["--minutes", "inf"], "minutes must be a positive number"),
        (["--minutes", "few"], "minutes must be a positive number, such as 5 or 0.5, not 'few'"),
    ],
)
def test_doctor_names_what_was_mistyped(arguments, said, capsys):
    assert status("doctor", *arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kernels"), [("h200", True), ("NVIDIA H100 PCIe", True), ("b200", False), ("tpu", False)]
)
def test_devices_with_kernels(name, kernels):
    assert command.has_kernels(command.resolve(name)) == kernels


def test_the_module_runs(module, tmp_path):
    """Run the module in a process of its own: the current folder is where modules are looked for."""
    shown = subprocess.run(
        [sys.executable, "-m", "pallas_conv", "explain", f"{module}:nothing"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "1 product of convolutions on cpu" in shown.stdout

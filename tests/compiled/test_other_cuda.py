"""PTX is the same with another CUDA, but for the version in its header: `make test-cuda13` need not execute it again."""

import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from compiled import aot
from pallas_conv.equation import operands_of
from workloads.ladder import FAMILIES

OTHER = "OTHER_PYTHON"  # the environment variable that holds the path of a Python with the same JAX and another CUDA
ROOT = pathlib.Path(__file__).parents[2]
VERSION = re.compile(r"^\.version (.*)$", flags=re.MULTILINE)

ASKED = pytest.mark.skipif(OTHER not in os.environ, reason=f"{OTHER} is not set: `make test-cuda13` does")
pytestmark = [pytest.mark.aot, pytest.mark.timeout(900), ASKED]


def write_ptx(family: str, file: pathlib.Path) -> None:
    """Write the version of JAX, and the PTX of a case on each rung of a family's ladder."""
    cases = [rung.cases[0] for rung in FAMILIES[family].LADDER]
    found = [aot.resources("h100", case.kernel.run, *operands_of(case.product))[1].ptx for case in cases]
    file.write_text(json.dumps([jax.__version__, *found]))


def ptx_by(python: str, family: str, file: pathlib.Path) -> list[str]:
    """Return what `write_ptx` writes, in a process of its own: in another, functions that were traced before have other line
    numbers in PTX.
    """
    code = f"""
import pathlib
from tests.compiled.test_other_cuda import write_ptx
write_ptx({family!r}, pathlib.Path({str(file)!r}))
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run((python, "-c", code), cwd=ROOT, env=env, check=True, timeout=400)
    return json.loads(file.read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_another_cuda_changes_the_version_of_ptx_alone(family, tmp_path):
    others_jax, *others = ptx_by(os.environ[OTHER], family, tmp_path / "others.json")
    owns_jax, *owns = ptx_by(sys.executable, family, tmp_path / "own.json")
    assert others_jax == owns_jax
    assert owns
    for other, own in zip(others, owns, strict=True):
        (others_version,), (own_version,) = set(VERSION.findall(other)), set(VERSION.findall(own))
        assert others_version != own_version
        assert VERSION.sub("", other) == VERSION.sub("", own)

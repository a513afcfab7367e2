"""PTX is the same with another CUDA, but for the version in its header: `make test-cuda13` need not execute it again."""

import json
import os
import pathlib
import re
import subprocess

import pytest

from compiled import aot
from pallas_conv.equation import operands_of
from workloads.ladder import FAMILIES

OTHER = "OTHER_PYTHON"  # the environment variable that holds the path of a Python with the same JAX and another CUDA
ROOT = pathlib.Path(__file__).parents[2]

ASKED = pytest.mark.skipif(OTHER not in os.environ, reason=f"{OTHER} is not set: `make test-cuda13` does")
pytestmark = [pytest.mark.aot, ASKED]


def ptx(family: str) -> list[str]:
    """The PTX of a case on each rung of a family's ladder."""
    cases = [rung.cases[0] for rung in FAMILIES[family].LADDER]
    return [aot.resources("h100", case.kernel.run, *operands_of(case.product))[1].ptx for case in cases]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_cuda_changes_the_version_of_ptx_alone(family):
    code = f"import json, sys; from tests.compiled.test_other_cuda import ptx; json.dump(ptx({family!r}), sys.stdout)"
    command, env = (os.environ[OTHER], "-c", code), os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    version = re.compile(r"^\.version (.*)$", flags=re.MULTILINE)
    for other, own in zip(json.loads(run.stdout), ptx(family), strict=True):
        assert set(version.findall(other)).isdisjoint(version.findall(own))
        assert version.sub("", other) == version.sub("", own)

"""Texts of kernels are those of what was compiled, however often it was before."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from compiled import aot
from pallas_conv.equation import operands_of
from pallas_conv.kernels import serve
from pallas_conv.kernels.dense.plan import Config
from tests.kernels.cases import product
from workloads.ladder import dense, depthwise, large_depthwise, pointwise, wgrad

pytestmark = pytest.mark.aot

PRODUCT, CONFIG = product("fprop", 1, (16, 16), (9, 8), 3, 1, 1), Config((1, 8, 8), 16, tile_k=16, stages=2)


def kernel(config=CONFIG):
    return serve.kernel(PRODUCT, config=config).run


def read(f):
    return aot.instructions("h100", f, *operands_of(PRODUCT))


def test_a_kernel_that_was_compiled_before_is_read_again():
    aot.compile_for("h100", kernel(), *operands_of(PRODUCT))
    first, again = read(kernel()), read(kernel())
    assert "wgmma.mma_async" in first
    assert first == again
    assert read(kernel(dataclasses.replace(CONFIG, stages=3))) != first


def test_a_function_that_was_compiled_before_is_read_again():
    f = kernel()
    assert read(f) == read(f)


def test_every_kernel_of_a_program_is_read():
    f = kernel()
    _, once = aot.resources("h100", f, *operands_of(PRODUCT))
    _, twice = aot.resources("h100", lambda x, w: [f(x, w), f(2 * x, w)], *operands_of(PRODUCT))
    assert (once.kernels, twice.kernels) == (1, 2)
    assert (twice.registers, twice.smem_bytes) == (once.registers, once.smem_bytes)


def test_the_ptxas_is_the_one_that_jax_was_installed_with(monkeypatch, tmp_path):
    """Not that of a toolkit on PATH, which Mosaic would take."""
    other = tmp_path / "ptxas"
    other.write_text(f"#!/bin/sh\ntouch {tmp_path}/taken\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    aot.compile_for("h100", kernel(dataclasses.replace(CONFIG, stages=5)), *operands_of(PRODUCT))
    assert not (tmp_path / "taken").exists()
    assert os.environ["PATH"].startswith(str(tmp_path))


def own_ptxas():
    return os.path.join(os.environ["MOSAIC_GPU_CUDA_ROOT"], "bin", "ptxas")


def test_a_further_ptxas_is_given_what_mosaic_gives_its_own(monkeypatch):
    """The same PTX and flags: JAX's own ptxas, asked twice more, names the same numbers."""
    f, operands = kernel(dataclasses.replace(CONFIG, stages=6)), operands_of(PRODUCT)
    monkeypatch.setenv(aot.FURTHER_PTXAS, "")
    _, once = aot.resources("h100", f, *operands)
    monkeypatch.setenv(aot.FURTHER_PTXAS, os.pathsep.join((own_ptxas(), own_ptxas())))
    _, thrice = aot.resources("h100", f, *operands)
    numbers = re.compile(r"Used \d+ registers|\d+ bytes spill")
    assert numbers.findall(thrice.log) == 3 * numbers.findall(once.log)
    assert dataclasses.replace(thrice, log=once.log) == once


def test_the_largest_number_that_a_ptxas_names_counts(monkeypatch, tmp_path):
    f, operands = kernel(dataclasses.replace(CONFIG, stages=7)), operands_of(PRODUCT)
    further = tmp_path / "ptxas"
    further.write_text("#!/bin/sh\necho 0 bytes spill stores, 8 bytes spill loads, Used 250 registers\n")
    further.chmod(0o755)
    monkeypatch.setenv(aot.FURTHER_PTXAS, str(further))
    _, used = aot.resources("h100", f, *operands)
    assert (used.spills, used.registers, used.kernels) == (8, 250, 1)
    further.write_text("#!/bin/sh\necho Unsupported .version; exit 255\n")
    with pytest.raises(RuntimeError, match=r"compiled nothing: Unsupported \.version"):
        aot.resources("h100", f, *operands)


FAMILIES = (dense.CASES, wgrad.CASES, depthwise.CASES, large_depthwise.CASES, pointwise.CASES)


def small_kernels_ptx() -> list[str]:
    """The PTX of a small kernel of each family."""
    kernels = [(cases[0].product, serve.kernel(cases[0].product, config=cases[0].config)) for cases in FAMILIES]
    return [aot.resources("h100", kernel.run, *operands_of(product))[1].ptx for product, kernel in kernels]


def test_another_ptxas_changes_the_version_of_ptx_alone(tmp_path):
    """Shown for a small kernel of each of five families: so `make test-cuda13` need not execute PTX again."""
    root, version = pathlib.Path(os.environ["MOSAIC_GPU_CUDA_ROOT"]), re.compile(r"(?m)^\.version (.*)$")
    for entry in root.iterdir():
        if entry.name != "bin":
            (tmp_path / entry.name).symlink_to(entry)
    other = tmp_path / "bin" / "ptxas"
    other.parent.mkdir()
    says = "echo \"ptxas fatal   : Unsupported .version 99.99; current version is '8.6'\" >&2; exit 255"
    other.write_text(f'#!/bin/sh\ncase "$*" in *"version 99.99"*) {says};; esac\nexec {root}/bin/ptxas "$@"\n')
    other.chmod(0o755)
    code = "import json, sys; from tests.compiled import test_aot; json.dump(test_aot.small_kernels_ptx(), sys.stdout)"
    env = os.environ | {"CUDA_ROOT": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=200)
    for older, newer in zip(json.loads(run.stdout), small_kernels_ptx(), strict=True):
        assert version.findall(older) == ["8.6"]
        assert version.findall(newer) != ["8.6"]
        assert version.sub("", older) == version.sub("", newer)


def test_a_kernel_of_which_nothing_is_dumped_says_so(monkeypatch):
    lowered = lambda *_: pathlib.Path(os.environ["MOSAIC_GPU_DUMP_TO"], "kernel_0.resources.txt").touch()
    monkeypatch.setattr(aot, "compile_for", lowered)
    with pytest.raises(RuntimeError, match="dumped 0 of 1 kernels"):
        read(kernel())


def test_a_jax_that_hashes_elsewhere_still_has_new_kernels_read(monkeypatch):
    monkeypatch.setattr(aot, "_mosaic", None)
    assert "wgmma.mma_async" in read(kernel(dataclasses.replace(CONFIG, stages=4)))


def test_a_program_without_a_kernel_says_so():
    with pytest.raises(RuntimeError, match="no Mosaic kernel"):
        aot.instructions("h100", lambda x: x + 1, operands_of(PRODUCT)[0])

"""Texts of kernels are those of what was compiled, however often it was before."""

import dataclasses
import os
import pathlib
import re

import pytest

from compiled import aot
from pallas_conv.equation import operands_of
from pallas_conv.kernels import serve
from pallas_conv.kernels.dense.plan import Config
from tests.kernels.cases import product

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

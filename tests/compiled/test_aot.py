"""What is read of a kernel is what was compiled, however often it was before."""

import dataclasses

import pytest

from compiled import aot, kernels
from pallas_conv.kernels import serve
from pallas_conv.kernels.dense.plan import Config
from tests.kernels.cases import product

pytestmark = pytest.mark.aot

PRODUCT, CONFIG = product("fprop", 1, (16, 16), (9, 8), 3, 1, 1), Config((1, 8, 8), 16, tile_k=16, stages=2)


def read(config):
    run = serve.kernel(PRODUCT, config=config).run
    return aot.instructions("h100", run, *kernels.operands(PRODUCT))


def test_a_kernel_that_was_compiled_before_is_read_again():
    aot.compile_for("h100", serve.kernel(PRODUCT, config=CONFIG).run, *kernels.operands(PRODUCT))
    first, again = read(CONFIG), read(CONFIG)
    assert "wgmma.mma_async" in first
    assert first == again
    assert read(dataclasses.replace(CONFIG, stages=3)) != first


def test_a_program_without_a_kernel_says_so():
    with pytest.raises(RuntimeError, match="no Mosaic kernel"):
        aot.instructions("h100", lambda x: x + 1, kernels.operands(PRODUCT)[0])

"""A kernel of any family, compiled for an H100 that need not be there, and what ptxas made of it."""

import jax

from compiled import aot, kernels
from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import ANY_HOPPER, HOPPER, WARPGROUP
from pallas_conv.spec import Product


def compiled(
    product: Product, cfg, buffers: int, barriers: int, multiplies: str = "wgmma.mma_async"
) -> tuple[jax.stages.Compiled, aot.Resources]:
    """The product's kernel, once everything that all families have in common has been checked.

    buffers, barriers: bytes of shared memory that the plan counts. multiplies: the instruction that does.
    """
    program, used = kernels.compiled(product, cfg)
    kernel = serve.kernel(product)
    assert used.kernels == 1
    assert kernel.name in program.as_text()
    assert kernel.name in used.ptx or kernel.name in used.log
    assert "cudnn" not in program.as_text()
    assert multiplies in used.ptx
    assert "cp.async.bulk.tensor" in used.ptx
    assert used.spills == 0, used.log
    work = kernel.family.work(kernel.family.problem(product), cfg, ANY_HOPPER)
    warpgroups = (work.mma_warpgroups + 1) * work.ctas_per_sm
    assert used.registers * WARPGROUP * warpgroups <= HOPPER.registers, used.log
    assert used.smem_bytes == buffers  # the budget is right
    assert buffers + barriers <= HOPPER.smem_limit(work.ctas_per_sm)
    assert "serializ" not in used.log, used.log
    assert "setmaxnreg" not in used.log, used.log
    return program, used

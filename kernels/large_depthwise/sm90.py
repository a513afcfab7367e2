"""The large-kernel depthwise kernels for Hopper: rows of pixels as Hankel matrices, on tensor cores.

A channel by itself has no matrix product in it, and with a large kernel much arithmetic for each byte: 961 multiply-adds for
each output of 31x31. See hankel.py for the matrices, strips.py for how they come to be in shared memory, pixel_sums.py for
forward products and input gradients, weight_sums.py for weight gradients.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from pallas_conv.spec import Product

from ..epilogue import Epilogue
from ..gpu import Gpu
from ..launch import launch
from .legal import illegal
from .operands import Views, operands_by_name
from .pixel_sums import PixelSums
from .plan import CONSUMERS, Config, Problem, tiling
from .schedule import Schedule
from .strips import Strips
from .weight_sums import WeightSums
from .work import useful_macs


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the kernel of a product that `served.reasons` has nothing against. Arrays are channels first.

    fprop: x (N, C, *in), w (C, 1, *kernel), b (C,) if product.bias -> (N, C, *out) for each of product.outputs
    dgrad: ct (N, C, *out), w (C, 1, *kernel) -> [(N, C, *in)]
    wgrad: x (N, C, *in), ct (N, C, *out) -> [(C, 1, *kernel)], and (C,) if product.outputs has "db"

    With product.models, every array has that axis first.
    """
    problem = Problem.of(product)
    if why := illegal(problem, cfg, gpu):
        raise ValueError(why)
    schedule = Schedule(tiling(problem, cfg), gpu.num_sms)
    views = Views(schedule.tiling, jnp.dtype(product.compute_dtype), jnp.dtype(product.out_dtype), interpret)
    given = views.operands(operands_by_name(product, operands))
    if problem.weight_sums:
        return views.gradients(_launch(WeightSums(schedule, views), given, name), product)
    epilogue = Epilogue(product.activation, product.outputs) if product.role == "fprop" else Epilogue()
    outs = _launch(PixelSums(schedule, views, epilogue), given, name)
    return [views.channels_first(out, product.models) for out in outs]


def _launch(kernel: Strips, given: Mapping[str, Array], name: str) -> list[Array]:
    return launch(
        kernel,
        given,
        workers=kernel.schedule.workers,
        warpgroups=CONSUMERS + 1,
        macs=useful_macs(kernel.problem),
        name=name,
        interpret=kernel.views.interpret,
    )

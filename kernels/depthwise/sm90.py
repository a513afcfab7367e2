"""The depthwise kernels for Hopper: a persistent, warp-specialised walk down strips of images, group by group.

There is no large matrix product in groups of few channels, and little arithmetic for each byte. So a pixel should come from
global memory once: a block walks down strips of an image. One producer warpgroup loads its input rows by TMA into a ring of
slots, once each, and consumer warpgroups sum what is there (strips.py). Forward products and input gradients are sums over
taps, for every pixel (pixel_sums.py); weight gradients are sums over pixels, for every tap (weight_sums.py). A whole backward
pass is both (backward.py).
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from pallas_conv.spec import Product

from ..epilogue import Epilogue
from ..gpu import Gpu
from ..launch import launch
from .backward import Backward
from .legal import illegal
from .operands import Views, channels_last_operands
from .pixel_sums import PixelSums
from .plan import Config, Problem
from .schedule import Schedule
from .strips import Strips
from .tiling import tiling
from .weight_sums import WeightSums
from .work import useful_macs


def run(product: Product, cfg: Config, gpu: Gpu, *operands: Array, name: str, interpret: bool = False) -> list[Array]:
    """Launch the kernel of a product that `served.reasons` has nothing against. Arrays are channels first.

    fprop: x (N, C, *in), w (O, C / groups, *kernel), b (O,) if product.bias, r (N, O, *out) if product.residual
           -> (N, O, *out) for each of product.outputs
    dgrad: ct (N, O, *out), w -> [(N, C, *in)]
    wgrad: x, ct -> [(O, C / groups, *kernel)], and (O,) if product.outputs has "db"
    bwd: x, ct, w, and what product.activation saved -> [(N, C, *in), (O, C / groups, *kernel)], and (O,) likewise

    With product.models, every array has that axis first.
    """
    problem = Problem.of(product)
    if why := illegal(problem, cfg, gpu):
        raise ValueError(why)
    schedule = Schedule(tiling(problem, cfg), gpu.num_sms)
    views = Views(schedule.tiling, jnp.dtype(product.compute_dtype), jnp.dtype(product.out_dtype), interpret)
    given = views.operands(channels_last_operands(product, operands))
    if problem.backward:
        dx, sums = _launch(Backward(schedule, views), given, name)
        return [views.channels_first(dx, product.models), *views.gradients(sums, product)]
    if problem.weight_sums:
        (sums,) = _launch(WeightSums(schedule, views), given, name)
        return views.gradients(sums, product)
    epilogue = Epilogue(product.activation, product.outputs) if product.role == "fprop" else Epilogue()
    outs = _launch(PixelSums(schedule, views, epilogue), given, name)
    return [views.channels_first(out, product.models) for out in outs]


def _launch(kernel: Strips, given: Mapping[str, Array], name: str) -> list[Array]:
    return launch(
        kernel,
        given,
        workers=kernel.schedule.workers,
        warpgroups=kernel.cfg.consumers + 1,
        macs=useful_macs(kernel.problem),
        name=name,
        interpret=kernel.views.interpret,
    )

"""The proof of a case of the dense kernel: run in Mosaic's interpreter with race detection, and held against float64."""

import random

import jax
import jax.numpy as jnp

from pallas_conv.activations import ACTIVATIONS
from pallas_conv.kernels.dense import served, work
from pallas_conv.kernels.dense.legal import illegal
from pallas_conv.kernels.dense.plan import Config, Problem
from pallas_conv.kernels.family import EPILOGUE_OUTPUTS, LEAST_CHANNELS
from pallas_conv.kernels.geometry import boxes
from pallas_conv.spec import Product
from pallas_conv.verify.reference import truncated_to_tf32
from tests.kernels import cases, proving
from tests.kernels.cases import Case


def as_multiplied(pixels: jax.Array) -> jax.Array:
    """Pixels as wgmma reads them: the interpreter multiplies all bits of a float32."""
    return jnp.asarray(truncated_to_tf32(pixels)) if pixels.dtype == jnp.float32 else pixels


def run(case: Case, operands: list[jax.Array]) -> list[jax.Array]:
    """The results of a case, whose operands these are."""
    return proving.run(case, [as_multiplied(operands[0]), *operands[1:]])


def prove(case: Case) -> None:
    """Raise unless the case is right and free of races."""
    operands = case.operands()
    cases.check(case.product, run(case, operands), operands)


def generated(seed: int) -> Case:
    """A random product that is served, and a random configuration that is legal for it."""
    rng = random.Random(seed)
    while True:
        pick, nd = rng.choice, rng.choice((1, 2, 2, 2, 3))
        each = lambda lo, hi, nd=nd: tuple(rng.randint(lo, hi) for _ in range(nd))
        pair = lambda lo, hi: (rng.randint(lo, hi), rng.randint(lo, hi))
        size = each(1, (60, 16, 8)[nd - 1])
        role = pick(("fprop", "fprop", "dgrad"))
        groups = pick((1, 1, 1, 2, 3))
        dtype = pick(("bfloat16", "bfloat16", "float16", "float32"))
        epilogue = {}
        if role == "fprop":
            outputs = pick(EPILOGUE_OUTPUTS)
            epilogue = {"bias": pick((True, False)), "residual": pick((True, False, False))}
            epilogue |= {"activation": pick((None, *ACTIVATIONS)), "outputs": outputs}
        p = cases.product(
            role,
            rng.randint(1, 3) if rng.random() < 0.8 else rng.randint(32, 70),
            pair(1, 100)
            if groups == 1
            else (groups * rng.randint(LEAST_CHANNELS, 40), groups * rng.randint(LEAST_CHANNELS, 40)),
            size,
            each(1, 5),
            padding=tuple(pair(-2, 5) for _ in range(nd)),
            dilation=each(1, 3),
            stride=pick((1, 1, each(1, 3))),
            input_dilation=pick((1, 1, each(1, 3))),
            groups=groups,
            models=pick((None, None, None, 2)),
            dtype=dtype,
            out_dtype=pick((dtype, dtype, "float32")),
            **epilogue,
        )
        if served.reasons(p):
            continue
        cfg = some_config(rng, p)
        if cfg:
            return Case(f"generated {seed}", p, cfg, num_sms=rng.randint(2, 5))


def some_config(rng: random.Random, p: Product) -> Config | None:
    """A random configuration, or None if it is illegal, or would take the interpreter minutes."""
    pick, nd = rng.choice, p.spec.ndim
    cfg = Config(
        tile_pixels=pick(list(boxes(64, nd))),
        tile_n=pick((16, 48, 64, 80)),
        tile_k=pick((8, 16, 32, 64)),
        taps_per_step=pick((1, 1, 2, 3)),
        halo=pick((True, False)),
        im2col=pick((True, False)) and p.in_channels + p.out_channels < 40,
        col2im_dims=pick((0, 1, nd)) if p.in_channels + p.out_channels < 60 else 0,
        stages=pick((2, 3)),
        mma_warpgroups=pick((1, 2)),
        cluster=pick((1, 1, 2)),
        split_k=pick((1, 1, 2, 3)),
        epi_stages=pick((1, 2, 3)),
        skip_padding=pick((True, True, False)),
    )
    problem = Problem.of(p)
    if illegal(problem, cfg):
        return None
    # It multiplies a line of pixels at a time.
    in_seconds = work.executed_macs(problem, cfg) <= 800 * cfg.tile_pixels[-1] * cfg.tile_n * cfg.tile_k
    return cfg if in_seconds else None

"""A product of the suite as it is launched on a GPU: every tensor map held against the driver's conditions, a part executed."""

import dataclasses
import time
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from pallas_conv.kernels import serve
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.dense.plan import Config
from pallas_conv.verify.reference import reference_at
from pallas_conv.verify.verdict import Verdict, judge_at
from workloads.served import served

from .cases import Case
from .emulate import UNWRITTEN, Emulation, emulation

PIXELS = 200  # that are compared, of those that the clusters have stored


@dataclasses.dataclass(frozen=True)
class Part:
    """The work of some clusters on a product. verdict: of `values` numbers; None where XLA adds parts that did not run."""

    config: Config
    ran: Emulation
    verdict: Verdict | None
    values: int
    seconds: float


def run(name: str, clusters: Iterable[int] = (0, -1), timing: tuple[str, int] = ("random", 0)) -> Part:
    """name: as in resnet50_c3_s2/f; clusters: see `Machine.run`."""
    product = served(DENSE)[name]
    kernel = serve.kernel(product)
    config: Config = kernel.config
    operands = Case(f"full size {name}", product, config).operands()
    start = time.perf_counter()
    with emulation(timing=timing, clusters=clusters) as ran:
        outs = kernel.run(*operands)
    seconds = time.perf_counter() - start
    if config.finished_by_xla:
        return Part(config, ran, None, 0, seconds)
    # One output, and one model, are enough here: the cases of the ladder have several.
    one = dataclasses.replace(product, outputs=product.outputs[-1:], models=None)
    got = np.asarray(outs[-1] if product.models is None else outs[-1][-1])
    some = tuple(np.asarray(o if product.models is None else o[-1]) for o in operands)
    stored = (np.ascontiguousarray(got).view(np.uint8).reshape(*got.shape, -1) != UNWRITTEN).any(-1)
    at = np.argwhere(stored.any(1))
    at = at[np.random.default_rng(0).permutation(len(at))[:PIXELS]]
    here = at[:, 0], slice(None), *at[:, 1:].T
    want = reference_at(one, at, *some)
    there = stored[at[:, 0], :, *at[:, 1:].T]
    compared, rounded = np.zeros_like(got), np.zeros_like(got)  # elsewhere nobody looks
    rounded[here] = np.asarray(jnp.asarray(want, got.dtype))
    compared[here] = np.where(there, got[here], rounded[here])
    # The exact result, rounded, stands for XLA's, which would take minutes: a sharper measure than it.
    verdict = judge_at(one, at, some, compared, rounded)
    return Part(config, ran, verdict, int(there.sum()), seconds)

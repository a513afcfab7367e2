"""`python -m pallas_conv doctor`: are the kernels right on this machine, and are they faster than XLA?

Every kernel variant runs on small random problems against float64, with XLA's own error on this machine as the measure; on a
Hopper GPU it is also timed against XLA at three typical sizes, and what was found is kept as a record (see trust.py), so that
`auto` may take the kernels. Without a GPU, a few variants are checked in Mosaic's interpreter, races included.
"""

import dataclasses
import datetime
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import trust
from .kernels import support
from .primitives import bind, contract
from .spec import ConvSpec, Product
from .target import Target, resolve
from .trilinear import Op
from .verify.timing import measure
from .verify.verdict import Verdict, judge

CONVOLUTIONS = (  # (role, stride, bias, activation, outputs): what networks are made of
    ("fprop", 1, False, None, ("y",)),
    ("fprop", 1, True, None, ("y",)),
    ("fprop", 1, True, "relu", ("y",)),
    ("fprop", 1, True, "silu", ("y",)),
    ("fprop", 1, True, "silu", ("y", "z")),
    ("fprop", 2, False, None, ("y",)),
    ("fprop", 2, True, None, ("y",)),
    ("fprop", 2, True, "relu", ("y",)),
    ("dgrad", 1, False, None, ("y",)),
)
DTYPES = ("bfloat16", "float16")
INTERPRETED = (CONVOLUTIONS[2], CONVOLUTIONS[4], CONVOLUTIONS[6], CONVOLUTIONS[8])

SMALL = (
    (2, 24, 40, (9, 13)),
    (3, 16, 8, (10, 7)),
)  # (batch, channels in, channels out, size): ragged against every tile
TYPICAL = ((4, 64, 64, (56, 56)), (32, 128, 128, (28, 28)), (64, 256, 256, (56, 56)))


@dataclasses.dataclass
class Finding:
    """What was found out about one variant. error: what stopped the check, if anything did."""

    variant: str
    verdicts: list[Verdict]
    timings: list[dict[str, float]]
    error: str | None = None

    @property
    def correct(self) -> bool:
        return self.error is None and bool(self.verdicts) and all(v.right for v in self.verdicts)


def problem(dtype: str, convolution: tuple, size: tuple) -> Product:
    """A 3x3 convolution of one of CONVOLUTIONS at one of the sizes."""
    role, stride, bias, activation, outputs = convolution
    batch, channels, out_channels, spatial = size
    spec = ConvSpec((stride,) * 2, ((1, 1),) * 2, (1, 1), (1, 1), 1, spatial, (3, 3))
    return Product(role, spec, batch, channels, out_channels, dtype, dtype, None, bias, activation, outputs)


def operands(product: Product, seed: int) -> list[jax.Array]:
    """Fresh random ones, scaled so that the sums are about 1."""
    rng = np.random.default_rng(seed)
    x = (product.batch, product.in_channels, *product.spec.in_spatial)
    y = (product.batch, product.out_channels, *product.spec.out_spatial)
    w = (product.out_channels, product.in_channels // product.spec.groups, *product.spec.kernel_spatial)
    draw = lambda shape: jnp.asarray(rng.standard_normal(shape, np.float32), product.compute_dtype)
    found = [draw(y if product.role == "dgrad" else x), draw(w) / float(np.sqrt(np.prod(w[1:])))]
    return [*found, draw(w[:1])] if product.bias else found


def program(product: Product, implementation: str) -> Callable[..., list[jax.Array]]:
    """The product through its primitive, jitted."""
    dtype = jnp.dtype(product.compute_dtype)
    op = Op(product.spec, dtype, dtype, product.activation, implementation=(implementation,))
    if product.role == "dgrad":
        return jax.jit(lambda ct, w: [contract("dgrad", ct, w, op, product.out_dtype)])
    if product.epilogue == "linear":
        return jax.jit(lambda x, w: [contract("fprop", x, w, op, product.out_dtype)])
    outs = [(name, product.out_dtype) for name in product.outputs]
    return jax.jit(lambda *v: list(bind("affine", op, dict(zip("xwb", v, strict=False)), outs).values()))


def check(dtype: str, convolution: tuple, implementation: str, seed: int) -> Finding:
    """One variant on the small problems, and on a GPU its timings. Any exception is a finding, too."""
    finding = Finding(support.variant(problem(dtype, convolution, SMALL[0])), [], [])
    try:
        for i, size in enumerate(SMALL):
            product = problem(dtype, convolution, size)
            v = operands(product, seed + i)
            results = zip(
                product.outputs, program(product, implementation)(*v), program(product, "xla")(*v), strict=True
            )
            for output, ours, xla in results:
                finding.verdicts.append(judge(dataclasses.replace(product, outputs=(output,)), tuple(v), ours, xla))
        if implementation == "mosaic" and finding.correct:
            for size in TYPICAL:
                product = problem(dtype, convolution, size)
                programs = {name: program(product, name) for name in ("mosaic", "xla")}
                found = measure(programs, [tuple(operands(product, seed + i)) for i in range(2)])
                us = {name: found[name].ms * 1e3 for name in programs}
                finding.timings.append(
                    {"macs": trust.useful_macs(product), "kernel_us": us["mosaic"], "xla_us": us["xla"]}
                )
    except Exception as error:
        finding.error = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return finding


def driver_version() -> str:
    """Of the NVIDIA driver, or "unknown"."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return "unknown"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return lines[0] if lines else "unknown"


def main() -> int:
    """Print a table as it is found; 1 if anything was wrong, else 0. On a Hopper GPU, keep the record."""
    os.environ.setdefault("NPROC", "16")  # threads for the interpreter, before JAX starts them
    target = resolve(None)
    hopper = target.platform == "cuda" and target.capability == support.CAPABILITY
    print(f"device       {target}" + (f", driver {driver_version()}" if target.is_gpu else ""))
    print(f"JAX          {jax.__version__}")
    print(f"kernels      {support.fingerprint()}")
    if not hopper:
        why = "this is no Hopper GPU" if target.is_gpu else "there is no GPU here"
        print(f"\n{why}: XLA serves every convolution. Checking a few kernels in the interpreter, races included.")
        os.environ["PALLAS_CONV_DETECT_RACES"] = "1"
    print(f"\n{'variant':44} {'result':8} {'error':>9} {'bound':>9}   speed against XLA, small / medium / large")
    findings = []
    seed = int.from_bytes(os.urandom(4), "little")
    for dtype, convolution in _variants(hopper):
        finding = check(dtype, convolution, "mosaic" if hopper else "interpret", seed)
        findings.append(finding)
        print(_row(finding), flush=True)
    wrong = [f for f in findings if not f.correct]
    print(
        f"\n{len(findings) - len(wrong)} of {len(findings)} variants are right"
        + (f" (random seed {seed})" if wrong else "")
    )
    if hopper:
        speeds = [t["xla_us"] / t["kernel_us"] for f in findings for t in f.timings]
        print(
            f"as fast as XLA, or faster, in {sum(s >= 1 for s in speeds)} of {len(speeds)} timings: `auto` takes them there"
        )
        print(f"recorded in {trust.save(_record(target, findings))}")
    return 1 if wrong else 0


def _variants(hopper: bool) -> Iterator[tuple[str, tuple]]:
    if hopper:
        yield from ((dtype, convolution) for dtype in DTYPES for convolution in CONVOLUTIONS)
    else:
        yield from (("bfloat16", convolution) for convolution in INTERPRETED)


def _row(finding: Finding) -> str:
    if finding.error:
        return f"{finding.variant:44} FAILED   {finding.error}"
    worst = max(finding.verdicts, key=lambda v: v.error / v.bound if v.bound else v.error)
    speeds = " / ".join(f"{t['xla_us'] / t['kernel_us']:.2f}x" for t in finding.timings)
    result = "right" if finding.correct else "WRONG"
    return f"{finding.variant:44} {result:8} {worst.error:9.1e} {worst.bound:9.1e}   {speeds}"


def _record(target: Target, findings: list[Finding]) -> dict[str, Any]:
    return {
        "device_kind": target.device_kind,
        "jax": jax.__version__,
        "fingerprint": support.fingerprint(),
        "driver": driver_version(),
        "date": datetime.date.today().isoformat(),
        "variants": {f.variant: {"correct": f.correct, "timings": f.timings} for f in findings},
    }

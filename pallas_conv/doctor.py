"""`python -m pallas_conv doctor`: are the kernels right on this machine, and are they faster than XLA?

The variants that networks are made of (CONVOLUTIONS) run on random problems against float64, with XLA's own error on this
machine as the measure. On a Hopper GPU they are also timed at three typical sizes, beside the lax programs that `auto` takes
otherwise, and what was found is kept as a record (see trust.py), so that `auto` may take the kernels. Without a GPU, a few
variants are checked in Mosaic's interpreter, races included.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import formulations, trust
from .kernels import choice, config, support
from .primitives import bind, contract
from .spec import ConvSpec, Product
from .target import Target, resolve
from .trilinear import Op
from .verify.timing import measure
from .verify.verdict import Verdict, agree, judge, judge_at, some_pixels


class Convolution(NamedTuple):
    """What makes a variant, its dtype aside.

    stride: of the pixels that are read, so of dgrad the input dilation; up: output phases, so of dgrad the stride.
    """

    role: str
    stride: int = 1
    up: int = 1
    rank: int = 2
    bias: bool = False
    residual: bool = False
    activation: str | None = None
    outputs: tuple[str, ...] = ("y",)
    out_dtype: str | None = None  # None: that of the operands


CONVOLUTIONS = (  # what networks are made of
    Convolution("fprop"),
    Convolution("fprop", bias=True),
    Convolution("fprop", bias=True, activation="relu"),
    Convolution("fprop", bias=True, activation="silu"),
    Convolution("fprop", bias=True, activation="silu", outputs=("y", "z")),
    Convolution("fprop", bias=True, activation="gelu"),
    Convolution("fprop", bias=True, activation="gelu", outputs=("y", "z")),
    Convolution("fprop", bias=True, residual=True),
    Convolution("fprop", bias=True, residual=True, activation="relu"),
    Convolution("fprop", 2),
    Convolution("fprop", 2, bias=True),
    Convolution("fprop", 2, bias=True, activation="relu"),
    Convolution("fprop", 2, bias=True, activation="silu", outputs=("y", "z")),
    Convolution("dgrad"),
    Convolution("dgrad", out_dtype="float32"),
    Convolution("dgrad", 2),
    Convolution("dgrad", 2, out_dtype="float32"),
    Convolution("fprop", up=2),
    Convolution("fprop", up=2, bias=True),
    Convolution("fprop", up=2, bias=True, activation="relu"),
    Convolution("dgrad", up=2),
    Convolution("dgrad", up=2, out_dtype="float32"),
    Convolution("fprop", rank=1, bias=True),
    Convolution("dgrad", rank=1),
    Convolution("fprop", rank=3, bias=True),
    Convolution("fprop", 2, rank=3, bias=True),
    Convolution("fprop", up=2, rank=3, bias=True),
    Convolution("dgrad", rank=3),
    Convolution("dgrad", 2, rank=3),
    Convolution("dgrad", up=2, rank=3),
)
OF_FLOAT32 = tuple(c for c in CONVOLUTIONS if not c.out_dtype)
OF_FLOAT16 = tuple(c for c in OF_FLOAT32 if c.rank == 2 and c.activation in (None, "relu") and not c.residual)
INTERPRETED = (
    Convolution("fprop", bias=True, activation="relu"),
    Convolution("fprop", bias=True, activation="silu", outputs=("y", "z")),
    Convolution("fprop", bias=True, residual=True, activation="relu"),
    Convolution("fprop", 2, bias=True),
    Convolution("dgrad"),
    Convolution("fprop", up=2, bias=True),
    Convolution("dgrad", up=2),
)


class Size(NamedTuple):
    batch: int
    channels: int
    out_channels: int
    spatial: tuple[int, int]
    kernel: int = 3


DEPTH = 4  # of volumes
SMALL = (Size(2, 24, 40, (9, 13)), Size(1, 16, 8, (10, 7)))  # against float64; ragged against every tile
MEDIUM = (  # against XLA, and some pixels against float64
    Size(8, 256, 320, (14, 14), 1),
    Size(6, 64, 72, (29, 30), 5),
    Size(70, 128, 128, (7, 7)),
    Size(8, 3, 64, (62, 64), 7),
    Size(8, 64, 3, (32, 32)),
)
PIXELS = 64  # of those, which float64 judges
TYPICAL = (Size(4, 64, 64, (56, 56)), Size(32, 128, 128, (28, 28)), Size(64, 256, 256, (56, 56)))  # and timed


@dataclasses.dataclass
class Finding:
    """What was found out about one variant. error: what stopped the check, if anything did."""

    variant: str
    verdicts: list[Verdict] = dataclasses.field(default_factory=list)
    agreements: list[bool] = dataclasses.field(default_factory=list)
    paths: set[str] = dataclasses.field(default_factory=set)
    timings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    error: str | None = None

    @property
    def correct(self) -> bool:
        right = all(v.right for v in self.verdicts) and all(self.agreements)
        return self.error is None and bool(self.verdicts) and right


def problem(dtype: str, convolution: Convolution, size: Size) -> Product:
    """One of CONVOLUTIONS at one of the sizes, padded to keep it but for strides."""
    each = lambda v: (v,) * convolution.rank
    stride, up, pad = each(convolution.stride), each(convolution.up), size.kernel // 2
    forward, (height, width) = convolution.role == "fprop", size.spatial
    spec = ConvSpec(
        strides=stride if forward else up,
        padding=each((pad, pad)),
        input_dilation=up if forward else stride,
        kernel_dilation=each(1),
        groups=1,
        in_spatial=(height * width,) if convolution.rank == 1 else (*(DEPTH,) * (convolution.rank - 2), *size.spatial),
        kernel_spatial=each(size.kernel),
    )
    return Product(
        role=convolution.role,
        spec=spec,
        batch=size.batch,
        in_channels=size.channels,
        out_channels=size.out_channels,
        compute_dtype=dtype,
        out_dtype=convolution.out_dtype or dtype,
        bias=convolution.bias,
        residual=convolution.residual,
        activation=convolution.activation,
        outputs=convolution.outputs,
    )


def operands(product: Product, seed: int) -> list[jax.Array]:
    """Fresh random ones, scaled so that the sums are about 1."""
    rng = np.random.default_rng(seed)
    draw = lambda shape, scale: jnp.asarray(rng.standard_normal(shape, np.float32) * scale, product.compute_dtype)
    scales = (1, 1 / np.sqrt(np.prod(product.operand_shapes[1][1:]), dtype=np.float32), 1, 1)
    return [draw(shape, scale) for shape, scale in zip(product.operand_shapes, scales, strict=False)]


def program(product: Product, implementation: str) -> jax.stages.Wrapped:
    """The product through its primitive, jitted."""
    dtype = jnp.dtype(product.compute_dtype)
    op = Op(product.spec, dtype, dtype, product.activation, implementation=(implementation,))
    if product.role == "dgrad":
        return jax.jit(lambda ct, w: [contract("dgrad", ct, w, op, product.out_dtype)])
    if product.epilogue == "linear":
        return jax.jit(lambda x, w: [contract("fprop", x, w, op, product.out_dtype)])
    outs = [(name, product.out_dtype) for name in product.outputs]
    names = "xw" + "b" * product.bias + "r" * product.residual
    return jax.jit(lambda *v: list(bind("affine", op, dict(zip(names, v, strict=True)), outs).values()))


@functools.cache
def compiled(product: Product, implementation: str) -> Callable[..., list[jax.Array]]:
    structs = [jax.ShapeDtypeStruct(shape, product.compute_dtype) for shape in product.operand_shapes]
    return program(product, implementation).lower(*structs).compile()


def compile_ahead(jobs: Sequence[tuple[Product, str]]) -> None:
    """In parallel, since compilation is most of the time. What fails here fails again where it is looked at."""

    def attempt(job: tuple[Product, str]) -> None:
        with contextlib.suppress(Exception):
            compiled(*job)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(attempt, jobs))


def sizes(on_gpu: bool) -> tuple[Size, ...]:
    return (*SMALL, *MEDIUM, *TYPICAL) if on_gpu else SMALL


def lax_program(product: Product, target: Target) -> str:
    """The implementation with which a lax program serves the product: "auto" as long as its kernel is not trusted."""
    formulation, _ = formulations.choose(product, target)
    return "xla" if formulation == formulations.STOCK else "auto"


def check(dtype: str, convolution: Convolution, implementation: str, seed: int, target: Target) -> Finding:
    """One variant on the small problems, and on a GPU on larger ones and timed. Any exception is a finding, too."""
    finding = Finding(support.variant(problem(dtype, convolution, SMALL[0])))
    on_gpu = implementation == "mosaic"
    try:
        for size in sizes(on_gpu):
            product = problem(dtype, convolution, size)
            v = operands(product, seed)
            kernel, xla = (compiled(product, name) for name in (implementation, "xla"))
            for output, ours, stock in zip(product.outputs, kernel(*v), xla(*v), strict=True):
                one = dataclasses.replace(product, outputs=(output,))
                if size in SMALL:
                    finding.verdicts.append(judge(one, tuple(v), ours, stock))
                else:
                    finding.agreements.append(agree(ours, stock, dtype)[0])
                    at = some_pixels(ours.shape, PIXELS, seed)
                    finding.verdicts.append(judge_at(one, at, tuple(v), ours, stock))
            finding.paths.add(choice.choose(product, target.num_sms or config.H100_SMS).path)
            if size in TYPICAL and on_gpu:
                programs = {"kernel": kernel, "lax": compiled(product, lax_program(product, target))}
                found = measure(programs, [tuple(v), tuple(operands(product, seed + 1))])
                times = {f"{name}_us": timing.ms * 1e3 for name, timing in found.items()}
                macs, (lax, _) = trust.useful_macs(product), formulations.choose(product, target)
                finding.timings.append({"macs": macs, **times, "lax": lax, "source": found["kernel"].source})
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
    print(f"\n{'variant':44} {'result':8} {'error':>9} {'bound':>9}   speed against XLA at the three typical sizes")
    variants = list(_variants(hopper))
    findings = {v: Finding(support.variant(problem(*v, SMALL[0]))) for v in variants}
    seed = int.from_bytes(os.urandom(4), "little")
    if hopper:  # an older record is void from now on, and what is not checked yet is not trusted
        trust.save(_record(target, findings.values()))
        everything = [problem(*v, size) for v in variants for size in sizes(hopper)]
        jobs = [(product, name) for product in everything for name in ("mosaic", "xla", lax_program(product, target))]
        compile_ahead(list(dict.fromkeys(jobs)))
    for v in variants:
        findings[v] = check(*v, "mosaic" if hopper else "interpret", seed, target)
        print(_row(findings[v]), flush=True)
        if hopper:
            record = trust.save(_record(target, findings.values()))
    wrong = [f for f in findings.values() if not f.correct]
    print(
        f"\n{len(findings) - len(wrong)} of {len(findings)} variants are right"
        + (f" (random seed {seed})" if wrong else "")
    )
    if hopper:
        timings = [t for f in findings.values() for t in f.timings]
        speeds = [t["lax_us"] / t["kernel_us"] for t in timings]
        if any(t["source"] != "cupti" for t in timings):
            print("timed by the clock, launches included: `auto` does not rely on such times; CUPTI is needed")
        print(
            f"as fast as XLA, or faster, in {sum(s >= 1 for s in speeds)} of {len(speeds)} timings: `auto` takes them there"
        )
        print(f"recorded in {record}")
    return 1 if wrong else 0


def _variants(hopper: bool) -> Iterator[tuple[str, Convolution]]:
    if hopper:
        yield from (("bfloat16", convolution) for convolution in CONVOLUTIONS)
        yield from (("float32", convolution) for convolution in OF_FLOAT32)
        yield from (("float16", convolution) for convolution in OF_FLOAT16)
    else:
        yield from (("bfloat16", convolution) for convolution in INTERPRETED)


def _row(finding: Finding) -> str:
    if finding.error:
        return f"{finding.variant:44} FAILED   {finding.error}"
    worst = max(finding.verdicts, key=lambda v: v.error / v.bound if v.bound else v.error)
    speeds = " / ".join(f"{t['lax_us'] / t['kernel_us']:.2f}x" for t in finding.timings)
    result = "right" if finding.correct else "WRONG"
    return f"{finding.variant:44} {result:8} {worst.error:9.1e} {worst.bound:9.1e}   {speeds}"


def _record(target: Target, findings: Iterable[Finding]) -> dict[str, Any]:
    return {
        "device_kind": target.device_kind,
        "jax": jax.__version__,
        "fingerprint": support.fingerprint(),
        "driver": driver_version(),
        "date": datetime.date.today().isoformat(),
        "variants": {
            f.variant: {"correct": f.correct, "paths": sorted(f.paths), "timings": f.timings} for f in findings
        },
    }

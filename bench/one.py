"""One launch of one product, for a profiler: python -m bench.one unet_mid/f [--config JSON] [--implementation mosaic|stock]

The program is compiled and launched once to warm up, then once more: that launch is the one to look at.

    ncu --clock-control none --set full -k regex:pallas_conv -s 1 -c 1 -o unet_mid_f python -m bench.one unet_mid/f

`-s 1` passes over the launch that warms up. `--clock-control none` leaves the clock as it is in use; ncu's default, the base
clock, is a third lower. ncu and CUPTI take turns: not in a process that times with verify.timing, which this one does not do.
ncu launches the kernel many times and saves the process's GPU memory before each, so JAX must not take nearly all of it in
advance: here it does not.
Stock's program is several kernels, and XLA tries many while it compiles: run it once without ncu, which leaves the compiled
program in --cache, then under ncu without -k, -s and -c; its launch is the last group of kernels of the report.

    python -m bench.one unet_mid/f --implementation stock
    ncu --clock-control none --set full -o stock python -m bench.one unet_mid/f --implementation stock

Look first at

    resnet50_c4/f   wide tiles, boxes over images, clusters: do tensor cores wait for loads (warp states of the consumers), and
                    how many bytes a clock come from L2?
    sd15_decoder/f  a halo with three slots: is a step as long as its products, or as its loads and their latency?
    resnet50_c2/f   two blocks an SM (launch statistics: theoretical and achieved occupancy), resident weights, and epilogues
                    that are a sixth of the tile: do they hide each other?

--config takes some fields of the kernel's configuration as JSON, {"stages": 3} (see kernels.dense.plan.Config); the others are
those of today's choice. Products are those of the suite, and the small ones of bench.correctness, which --dry-run interprets
on the CPU.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax

from pallas_conv.kernels import serve
from pallas_conv.kernels.gpu import Gpu
from pallas_conv.kernels.serve import Kernel
from pallas_conv.spec import Product
from workloads import cases

from . import correctness, products, runner

CACHE = pathlib.Path(tempfile.gettempdir()) / "pallas_conv_bench"
LAYERS = (*cases.suite(), *correctness.SMALL)
NAMES = {f"{case.name}/{d}": (case, d) for case in LAYERS for d in case.products() if products.served(case, d)}


def configured(product: Product, gpu: Gpu, changes: dict[str, Any]) -> Kernel:
    """The kernel under today's choice but for some fields. Raises ValueError where it does not take that."""
    kernel = serve.kernel(product, gpu)
    family = kernel.family
    config = family.config.from_json(kernel.config.to_json() | changes, "--config")
    if why := family.illegal(family.problem(product), config, gpu):
        raise ValueError(f"--config {json.dumps(changes)}: {why}")
    return dataclasses.replace(kernel, given=config)


def program(name: str, implementation: str, kernel: Kernel, interpret: bool = False) -> runner.Source:
    """The program that is launched."""
    case, direction = NAMES[name]
    if implementation == "stock":
        return products.stock(case, direction).make()
    return products.ours(case, direction, kernel.gpu, interpret, kernel.config).make()


def launch(run: Callable[..., Any], operands: tuple[Any, ...]) -> Any:
    """Run the program once to warm up, then once more."""
    jax.block_until_ready(run(*operands))
    return jax.block_until_ready(run(*operands))


def main(words: list[str] | None = None) -> int:
    args = _parse(words)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if args.dry_run:
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu":
        return _refused("JAX sees no GPU here; --dry-run interprets the kernel", 2)
    if args.dry_run and not args.name.startswith("small_"):
        small = ", ".join(name for name in NAMES if name.startswith("small_"))
        return _refused(f"--dry-run: {args.name} is too large to interpret; take one of {small}")
    case, direction = NAMES[args.name]
    product = case.products()[direction]
    try:
        kernel = configured(product, runner.gpu(args.dry_run), args.config)
    except ValueError as error:
        return _refused(str(error))
    print(f"{args.name} by {args.implementation}: {product}")
    if args.implementation == "mosaic":
        print(f"{kernel.config}\n{kernel.facts.code_path}", flush=True)
    if not args.dry_run:
        jax.config.update("jax_compilation_cache_dir", str(args.cache / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    run = jax.jit(program(args.name, args.implementation, kernel, args.dry_run).function)
    y = launch(run, case.arrays(direction))
    print(f"launched: {y.dtype}{y.shape}")
    return 0


def _refused(why: str, status: int = 1) -> int:
    print(f"bench.one: {why}", file=sys.stderr)
    return status


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.one", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("name", choices=NAMES, metavar="name", help="of a layer and its direction, as in unet_mid/f")
    add("--config", type=json.loads, default={}, help='JSON of fields that differ from today\'s choice: {"stages": 3}')
    add("--implementation", choices=("mosaic", "stock"), default="mosaic", help="(default: %(default)s)")
    add("--cache", type=pathlib.Path, default=CACHE, help="folder of compiled programs (default: %(default)s)")
    add("--dry-run", action="store_true", help="interpret a small one on the CPU")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())

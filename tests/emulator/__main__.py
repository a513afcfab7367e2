"""Runs compiled kernels on this CPU, and prints what they did.

python -m tests.emulator                        # one case a rung of the ladder: the quick set
python -m tests.emulator resnet50_c3_s2/f       # a product of the suite at full size, its first and last clusters
python -m tests.emulator resnet50_c3_s2/f --clusters 0 1 2 --timing late
"""

import argparse
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from pallas_conv.kernels.dense import DENSE
from workloads.served import served

from . import cases, full_size
from .emulate import Emulation
from .faults import Fault
from .timing import MODES

COUNTERS = {"instructions": 12, "TMA loads": 9, "TMA stores": 10, "wgmma": 7, "barriers waited for": 19}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.emulator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "product", nargs="?", help="of the suite, as in resnet50_c3_s2/f: forward, or /d: input gradient"
    )
    parser.add_argument("--clusters", type=int, nargs="+", default=[0, -1], help="which of the product's are executed")
    parser.add_argument("--timing", choices=MODES, default="random", help="when asynchronous operations happen")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.product is None:
        return quick((args.timing, args.seed))
    if args.product not in served(DENSE):
        parser.error(f"no kernel serves {args.product!r}; those served: {', '.join(served(DENSE))}")
    return one(args.product, args.clusters, (args.timing, args.seed))


def quick(timing: tuple[str, int]) -> int:
    """One case a rung of the ladder, simplest first."""
    start, wrong = time.perf_counter(), 0
    print(
        f"JAX {jax.__version__}, {timing[0]} timing. Errors are against float64, beside the bound that they must keep."
    )
    print(f"{'rung':28} {_header()} {'error':>8} {'bound':>8} {'s':>5}")
    for feature, case in cases.QUICK.items():
        try:
            outcome = cases.run(case, timing=timing)
        except Fault as fault:
            wrong += 1
            print(f"{feature:28} FAULT {fault}")
            continue
        wrong += not outcome.right
        worst = outcome.worst
        line = f"{feature:28} {_counts(outcome.ran)} {worst.error:8.1e} {worst.bound:8.1e} {outcome.seconds:5.1f}"
        print(line + ("" if outcome.right else "  WRONG"), flush=True)
    right = len(cases.QUICK) - wrong
    print(f"{right} of {len(cases.QUICK)} right, {time.perf_counter() - start:.0f} s")
    return wrong > 0


def one(name: str, clusters: list[int], timing: tuple[str, int]) -> int:
    try:
        part = full_size.run(name, clusters, timing)
    except Fault as fault:
        print(f"{name}: FAULT {fault}")
        return 1
    (machine,) = part.ran.machines
    launch = machine.launch
    print(f"{name}: {part.config}")
    print(f"{len(set(clusters))} of {machine.clusters} clusters of {launch.cluster[0]} x {launch.block[0]} threads")
    print(f"{machine.shared_bytes} bytes of shared memory a block, {len(launch.maps)} tensor maps, all legal")
    print(f"{part.seconds:.1f} s")
    for counter, count in sorted(machine.counters.items()):
        print(f"  {counter:20} {count:>12,}")
    if part.verdict is None:
        print("executed; the sums of parts that XLA adds were not compared")
        return 0
    verdict = part.verdict
    print(
        f"{part.values} values compared: error {verdict.error:.1e}, bound {verdict.bound:.1e}, largest {verdict.largest:.2f}"
    )
    print("right" if verdict.right else "WRONG")
    return not verdict.right


def _header() -> str:
    return " ".join(f"{name:>{width}}" for name, width in COUNTERS.items())


def _counts(ran: Emulation) -> str:
    return " ".join(f"{ran[name]:>{width}}" for name, width in COUNTERS.items())


if __name__ == "__main__":
    sys.exit(main())

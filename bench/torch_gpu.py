"""PyTorch's times for twelve layers of the suite on a GPU, as a rival beside JAX: forward, input gradient, step.

    python -m bench.torch_gpu --minutes 3

Channels last, cuDNN choosing by `torch.backends.cudnn.benchmark`, float32 as TF32. Operands are rotated past the L2; the
programs of a layer take turns. It is a script by itself since CUPTI serves one library of a process: so PyTorch's times are
not interleaved with JAX's, and the peaks that it measures say whether the device was in the same state.

Rows, beside the runner's (see `bench.runner`):

    peak   "torch_copy": gbps. "torch_gemm_bf16": tflops
    time   "<case>/<f|d|fb>", impl "torch": what a `pallas_conv.verify.timing.Timing` says, tflops (useful ones), gbps (of the
           least traffic), torch, cuda, cudnn (their versions). `ms` is of the kernels by CUPTI, `wall_ms` of calls one after
           the other by CUDA's events, behind work that lets the CPU go ahead

Without PyTorch every row is "skipped: PyTorch is not installed".
"""

import argparse
import collections
import dataclasses
import functools
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from pallas_conv.verify.timing import Launch, Rotation, Timing, copies
from workloads.cases import OPERANDS, Case, suite

from . import runner, torch_layers

CASES = (
    "resnet50_c2", "resnet50_c3_s2", "resnet50_c4", "unet_mid", "sd15_b0", "sdvae_b1", "aspp_d12", "dcgan_t1", "unet_up",
    "nnunet_mid", "nnunet_up", "unet_mid_f32",
)  # fmt: skip
DIRECTIONS = ("f", "d", "fb")
ABSENT = f"{runner.SKIPPED}PyTorch is not installed"
STEP_SECONDS = 60  # cuDNN tries its algorithms in the first call
ROUNDS = 5
ROUND_MS = 15.0  # a program, a round
BUSY = 4  # matrix products, 1.4 ms each on an H100, for which the CPU goes ahead

type Program = Callable[[], Any]


# ---------------------------------------------------------------- devices


class Gpu:
    """Programs timed by CUDA's events and by CUPTI."""

    name = "cuda"

    def __init__(self) -> None:
        self._busy = torch_layers.torch.zeros((8192, 8192), dtype=torch_layers.torch.bfloat16, device=self.name)

    def wait(self) -> None:
        torch_layers.torch.cuda.synchronize()

    def milliseconds(self, run: Program, iterations: int) -> float:
        """A call, of calls that the GPU finds in its queue."""
        start, end = (torch_layers.torch.cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(BUSY):
            self._busy @ self._busy
        start.record()
        for _ in range(iterations):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / iterations

    def launches(self, run: Program, iterations: int) -> list[Launch]:
        """All kernels that so many calls launch, in their order."""
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as session:
            for _ in range(iterations):
                run()
            self.wait()
        found = [e for e in session.events() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
        found.sort(key=lambda e: e.time_range.start)
        return [(e.name, e.time_range.elapsed_us() / 1e3) for e in found]


class Cpu:
    """Programs timed by the clock, to show that the script runs."""

    name = "cpu"

    def wait(self) -> None:
        """Return at once: calls return when they are done."""

    def milliseconds(self, run: Program, iterations: int) -> float:
        start = time.perf_counter()
        for _ in range(iterations):
            run()
        return 1e3 * (time.perf_counter() - start) / iterations

    def launches(self, run: Program, iterations: int) -> list[Launch]:
        return []


type Device = Gpu | Cpu


# ---------------------------------------------------------------- timing


def calls(launches: list[Launch], iterations: int) -> list[list[Launch]]:
    """The kernels of each call. Raises RuntimeError where records are missing: each kernel must occur equally often."""
    counts = collections.Counter(name for name, _ in launches)
    if not launches or any(count % iterations for count in counts.values()):
        raise RuntimeError(f"CUPTI saw {len(launches)} kernels in {iterations} calls: {dict(counts.most_common(4))}")
    size = len(launches) // iterations
    return [launches[i : i + size] for i in range(0, len(launches), size)]


def measure(device: Device, programs: dict[str, Program], alive: Callable[[], None]) -> dict[str, Timing]:
    """All programs in turns, round by round: by events, and then by CUPTI."""
    iterations: dict[str, int] = {}
    for name, run in programs.items():
        run()
        device.wait()
        alive()
        iterations[name] = max(2, min(20, round(ROUND_MS / max(device.milliseconds(run, 2), 1e-3))))
    walls: dict[str, list[float]] = {name: [] for name in programs}
    seen: dict[str, list[list[Launch]]] = {name: [] for name in programs}
    notes: dict[str, str] = {}
    for _ in range(ROUNDS):
        for name, run in programs.items():
            walls[name].append(device.milliseconds(run, iterations[name]))
            alive()
    for _ in range(ROUNDS):
        for name, run in programs.items():
            try:
                seen[name] += calls(device.launches(run, iterations[name]), iterations[name])
            except Exception as error:  # no CUPTI, no permission, or records that are missing
                notes[name] = f"{type(error).__name__}: {error}"[:300]
            alive()
    return {name: timing(walls[name], seen[name], notes.get(name)) for name in programs}


def timing(walls: list[float], calls: list[list[Launch]], note: str | None) -> Timing:
    """The time of the kernels alone, where they were seen."""
    samples = [sum(ms for _, ms in call) for call in calls] or walls
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    longest = sorted(calls[0], key=lambda launch: -launch[1])[:4] if calls else []
    return Timing(
        middle, low, high, statistics.median(walls), len(samples), "cupti" if calls else "wall",
        len(calls[0]) if calls else None, tuple((name[:80], ms) for name, ms in longest), note,
    )  # fmt: skip


# ---------------------------------------------------------------- programs


def programs(case: Case, device: Device) -> dict[str, Program]:
    """The directions of a layer, each on a set of operands after the other."""
    sets = [operands(case, device, seed) for seed in range(copies(case.nbytes()))]
    place = functools.partial(placed, device=device)
    bound = lambda d, given: torch_layers.bound(case, d, {n: given[n].detach() for n in OPERANDS[d]}, place)
    wanted = [d for d in DIRECTIONS if d in case.directions or d == "fb"]
    return {d: Rotation(lambda run: run(), [(bound(d, given),) for given in sets]) for d in wanted}


def operands(case: Case, device: Device, seed: int) -> dict[str, Any]:
    """Normal ones by name, drawn on the device; results are of order one."""
    torch = torch_layers.torch
    generator = torch.Generator(device=device.name).manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=generator, device=device.name).to(getattr(torch, case.dtype))
    drawn = {name: draw(shape) for name, shape in case.shapes().items()}
    fan = case.flops() / (2 * math.prod(case.shapes()["y"]))
    return {
        name: placed(torch_layers.weights(case, t / fan**0.5) if name == "w" else t, device)
        for name, t in drawn.items()
    }


def placed(tensor: Any, device: Device) -> Any:
    """The tensor on the device, channels last where PyTorch knows of that."""
    torch = torch_layers.torch
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim, torch.contiguous_format)
    return tensor.to(device.name).contiguous(memory_format=layout)


# ---------------------------------------------------------------- steps


def prepared(dry: bool) -> Device:
    """The device, with cuDNN's search and TF32 allowed."""
    torch = torch_layers.torch
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    return Cpu() if dry else Gpu()


def compare(context: runner.Context, case: Case) -> Iterator[runner.Row]:
    """A row of each direction."""
    if not torch_layers.INSTALLED:
        yield {"impl": "torch", "status": ABSENT}
        return
    device = prepared(context.dry)
    alive = functools.partial(context.alive, impl="torch")
    for direction, found in measure(device, programs(case, device), alive).items():
        yield {
            "name": f"{case.name}/{direction}",
            "impl": "torch",
            **dataclasses.asdict(found),
            "tflops": case.flops(direction) / found.ms / 1e9,
            "gbps": case.nbytes(direction) / found.ms / 1e6,
            **versions(),
        }


def versions() -> runner.Row:
    torch = torch_layers.torch
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def peak(context: runner.Context, of: str) -> Iterator[runner.Row]:
    """The best rate that the device reaches in PyTorch's hands: "copy" or "gemm_bf16"."""
    if not torch_layers.INSTALLED:
        yield {"status": ABSENT}
        return
    device, torch = prepared(context.dry), torch_layers.torch
    if of == "copy":
        x = torch.ones(2**20 if context.dry else 2**28, device=device.name)
        found = measure(device, {of: lambda: -x}, context.alive)[of]
        yield {"gbps": 8 * x.numel() / found.ms / 1e6, **dataclasses.asdict(found), **versions()}
    else:
        n = 256 if context.dry else 8192
        a, b = (torch.randn((n, n), device=device.name).to(torch.bfloat16) for _ in range(2))
        found = measure(device, {of: lambda: a @ b}, context.alive)[of]
        yield {"tflops": 2 * n**3 / found.ms / 1e9, **dataclasses.asdict(found), **versions()}


def steps(options: argparse.Namespace) -> list[runner.Step]:
    peaks = [
        runner.Step("peak", f"torch_{of}", functools.partial(peak, of=of), seconds=STEP_SECONDS)
        for of in ("copy", "gemm_bf16")
    ]
    layers = [c for c in suite() if re.search(options.cases, c.name)] if options.cases else chosen()
    sized = [small for c in layers if (small := c.on_cpu())] if options.dry_run else layers
    times = [runner.Step("time", c.name, functools.partial(compare, case=c), seconds=STEP_SECONDS) for c in sized]
    return [*peaks, *times]


def chosen() -> list[Case]:
    by_name = {case.name: case for case in suite()}
    return [by_name[name] for name in CASES]


def arguments(parser: argparse.ArgumentParser) -> None:
    told = "regular expression: other layers of the suite than the twelve"
    parser.add_argument("--cases", type=runner.checked(re.compile), default="", help=told)


def summary(rows: list[runner.Row]) -> str:
    """A line for each program, then what every summary ends with."""
    lines = [f"peak {r['name']:16} {_rate(r)}" for r in rows if r["kind"] == "peak" and r["status"] == "ok"]
    lines += [_line(r) for r in rows if r["kind"] == "time" and "ms" in r]
    if any(r["status"] == ABSENT for r in rows):
        lines.append("PYTORCH IS NOT INSTALLED: NOTHING WAS MEASURED")
    return runner.summary.fitting(lines, runner.summary.ending(rows))


def _rate(row: runner.Row) -> str:
    return f"{row['gbps']:.0f} GB/s" if "gbps" in row else f"{row['tflops']:.1f} TFLOP/s"


def _line(row: runner.Row) -> str:
    times = f"{row['ms']:9.4f} ms by {row['source']}, {row['wall_ms']:9.4f} ms in a row"
    return f"{row['name']:24} {times} {row['tflops']:7.1f} TFLOP/s {row['gbps']:6.0f} GB/s"


SCRIPT = runner.Script("bench.torch_gpu", __doc__, steps, summary, arguments)

if __name__ == "__main__":
    sys.exit(runner.main(SCRIPT))

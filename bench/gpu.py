"""Asks a GPU everything worth asking, most valuable first: `python -m bench.gpu --minutes 9` from the root of a checkout.

It needs JAX, equinox and NumPy, no network and no installation. A kernel that hangs or crashes costs its own row: the programs
that it was to be compared with are timed without it. See `bench.runner`, which also documents the arguments, the exit status,
and the rows of kind "run", "device" and "compile". Without a GPU, --dry-run takes the same steps on the CPU: interpreted
kernels on tiny problems, stock layers at CPU sizes. The exit status is also 3 if no kernel was checked.

First comes what cannot hang: the device, its peaks, stock's times of a few layers. Then probes; of each family of kernels in
turn the ladder, simplest first, and every code path that is wanted; small and medium problems, the suite's products that
kernels serve, weight gradients last, stock's times again, the rest.

Every row has a kind, a name, a status and t, seconds since the start. Statuses: "ok"; "wrong" (a result is); "error"
(exception, traceback); "hung", "crashed" (exception, tail); "unsupported" (reasons); "skipped: why". Kinds:

    peak         "copy": gbps. "gemm_<dtype>": tflops. "cupti_session": seconds, first_seconds
    stock        "<case>/<f|d|w|b|fb>": the fields of kind time, of stock's program alone
    probe        name of a bench.probes.Probe, detail
    ladder       name of a case of workloads.ladder, rung; the fields of kind correctness
    path         name of a case of workloads.paths: a code path that wanted products take; the fields of kind correctness
    correctness  "<problem>/<f|d|w|b>": error, bound, baseline_error, largest, finite, right, deterministic, seed; and what is
                 known of a kernel: family, product, config, num_sms, facts (see kernels.family), code_path, variant
    time         "<case>/<f|d|w|b|fb>", impl "stock", "best" (the lax program that `auto` takes without kernels, where that is
                 not stock's), "beside" (the one that it takes beside kernels for other products of the layer, where that is
                 another) or "ours" (the kernel; of fb the converted layer under ("mosaic", "auto")): ms and the rest of
                 verify.timing.Timing, compile_s (beside others), tflops (useful ones), gbps (of the least traffic), floor_ms,
                 fraction (of the floor: 1 is perfect); of all but stock ratio (stock's time by theirs), difference (from
                 stock, a part of the largest; of fb gradient_difference, too), and of one product error and bound at some
                 places; of ours ratio_best (of the fastest of the others), what is known of the kernel, lax (the formulation
                 that `auto` takes otherwise), lax_beside (likewise beside kernels), and where ours was timed lax_ms, lax_us,
                 lax_beside_us and kernel_us
    spread       "<case>/<f|d|w|b|fb>": ms of stock's program compiled anew by another process, first_ms, ratio of both

A row of a kernel may be joined by one of status "skipped: not poisoned": memory was not filled with NaN before it ran.
"""

import argparse
import functools
import re
import sys
from collections.abc import Iterator

import numpy as np

from pallas_conv.kernels import families
from pallas_conv.kernels.family import Family
from pallas_conv.target import resolve
from workloads import cases, configured, ladder, paths

from . import correctness, gate, probes, products, runner, speed, table
from .runner import Context, Program, Row, Source, Step

# Layers whose stock times are measured twice, to show how much they vary.
FIRST = ("resnet50_c2/f", "resnet50_c4/f", "sd15_b0/f", "unet_mid/d", "resnet50_c4/w")


def probing(probe: probes.Probe, interpret: bool) -> Step:
    make, family = functools.partial(_probe, probe.name, interpret), probe.name.partition("_")[0]
    program = Program(f"probe {probe.name}", make, kernel=True, question=f"probe {family}", portable=True)
    return Step("probe", probe.name, functools.partial(_ask, probe=probe, program=program), (program,))


def _probe(name: str, interpret: bool) -> Source:
    (probe,) = (p for p in probes.probes() if p.name == name)
    return Source(probe.kernel(interpret), probe.operands)


def _ask(context: Context, probe: probes.Probe, program: Program) -> Iterator[Row]:
    got = np.asarray(context.launch(program, *probe.operands))
    context.alive()
    passed, detail = probes.compare(probe, got)
    yield {"status": "ok" if passed else "wrong", "detail": detail}


# ------------------------------------------------------------ the steps


def steps(options: argparse.Namespace) -> list[Step]:
    """The steps of a run, in order."""
    dry, device, target = options.dry_run, runner.gpu(options.dry_run), resolve(None)
    jobs = _jobs(options)
    first = [job for job in jobs if products.served(*job)]
    compared = lambda jobs: [speed.compare(case, d, target, device, dry) for case, d in jobs]
    return [
        *speed.peaks(),
        *(speed.stock(case, d) for case, d in _samples(jobs, dry)),
        *(probing(probe, dry) for probe in _probes(dry)),
        *_configured(options),
        *(gate.correctness(case, d, device, dry) for case, d in _problems(options)),
        *compared(first),  # which are held against float64 at their own size, too
        Step(
            "spread",
            "stock",
            functools.partial(speed.spread, arguments=_of_stock(options)),
            seconds=speed.AGAIN_SECONDS,
        ),
        *compared([job for job in jobs if job not in first]),
    ]


def _configured(options: argparse.Namespace) -> list[Step]:
    """Small products under configurations of their own: family by family the ladder, then the code paths."""
    dry, found = options.dry_run, list[tuple[Family, Step]]()
    for rung, case in _rungs(options):
        found.append((case.kernel.family, gate.configured_step("ladder", case, dry, rung=rung.feature)))
    for case in paths.cases()[: 1 if dry else None]:
        found.append((case.kernel.family, gate.configured_step("path", case, dry)))
    return [step for family in families.FAMILIES for of, step in found if of is family]


def _jobs(options: argparse.Namespace) -> list[tuple[cases.Case, str]]:
    """Layers and directions: forward and input gradient, weight gradients, all gradients at once, then training steps."""
    wanted = options.cases or ("dcgan_t_last$|resnet50_proj" if options.dry_run else "")
    suite = [case for case in cases.suite() if re.search(wanted, case.name)]
    layers = [small for case in suite if (small := case.on_cpu())] if options.dry_run else suite
    wanted = [(case, d) for d in ("f", "d", "w", "b", "fb") for case in layers if d in case.products() or d == "fb"]
    return [(case, d) for case, d in wanted if not (case.per_example and d == "fb")]


def _samples(jobs: list[tuple[cases.Case, str]], dry: bool) -> list[tuple[cases.Case, str]]:
    """Jobs whose stock times are measured twice, by two processes; in a dry run any."""
    return jobs[:2] if dry else [(case, d) for case, d in jobs if f"{case.name}/{d}" in FIRST]


def _probes(dry: bool) -> tuple[probes.Probe, ...]:
    """All; in a dry run a few of those that the interpreter is right about."""
    return tuple(p for p in probes.probes() if p.interpretable)[::15] if dry else probes.probes()


def _rungs(options: argparse.Namespace) -> list[tuple[ladder.Rung, configured.Case]]:
    wanted = options.rungs or (r"^(\w+: )?(one tile|two outputs)$" if options.dry_run else "")
    return [(rung, case) for rung in ladder.LADDER if re.search(wanted, rung.feature) for case in rung.cases]


def _problems(options: argparse.Namespace) -> list[tuple[cases.Case, str]]:
    """Problems that kernels serve first, small before medium."""
    wanted = options.problems or ("odd_channels|depthwise" if options.dry_run else "")
    problems = correctness.SMALL if options.dry_run else correctness.SMALL + correctness.MEDIUM
    found = [(case, d) for case in problems if re.search(wanted, case.name) for d in case.products()]
    return sorted(found, key=lambda job: not products.served(*job))  # stable


def _of_stock(options: argparse.Namespace) -> list[str]:
    return [f"--cases={options.cases}", *["--dry-run"] * options.dry_run]


# ------------------------------------------------------------ the script


def arguments(parser: argparse.ArgumentParser) -> None:
    add = functools.partial(parser.add_argument, type=runner.checked(re.compile), default="")
    add("--cases", help="regular expression: the layers of the suite to time (all; a few in a dry run)")
    add("--problems", help="regular expression: the problems of the gate (all; a few in a dry run)")
    add("--rungs", help="regular expression: the rungs of the ladder (all; a few in a dry run)")


def unchecked(rows: list[Row]) -> str:
    checks = [r["status"] for r in rows if r["kind"] in ("ladder", "path", "correctness")]
    return "no kernel was checked" if checks and not {"ok", *runner.BAD} & set(checks) else ""


SCRIPT = runner.Script("bench.gpu", __doc__, steps, table.text, arguments, unchecked)

if __name__ == "__main__":
    sys.exit(runner.main(SCRIPT))

"""The command line of doctor, and what there is to do on this machine."""

import argparse
import contextlib
import os

import jax

from ..kernels import digest, families
from ..kernels.gpu import GENERATIONS
from ..target import Target, resolve


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=_minutes, default=12, help="minutes after which no new check starts (default: %(default)g)"
    )
    parser.add_argument(
        "--plan", type=_hopper, metavar="DEVICE", help="print what would be checked on h100, h200 or another Hopper GPU"
    )
    parser.set_defaults(run=run)


def _minutes(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (minutes := float(text)) < float("inf"):
            return minutes
    raise argparse.ArgumentTypeError(f"minutes must be a positive number, such as 5 or 0.5, not {text!r}")


def _hopper(name: str) -> Target:
    try:
        target = resolve(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not has_kernels(target):
        raise argparse.ArgumentTypeError(
            f"no kernel runs on {target}: name a Hopper GPU, such as h100 or 'NVIDIA H200'"
        )
    return target


def has_kernels(target: Target) -> bool:
    return target.platform == "cuda" and target.capability in GENERATIONS


def run(options: argparse.Namespace) -> int:
    if options.plan:
        return _print_plan(options.plan, options.minutes)
    os.environ.setdefault("NPROC", "16")  # threads for the interpreter, before JAX starts them
    target = resolve(None)
    print(f"device       {target}")
    print(f"JAX          {jax.__version__}")
    for family in families.FAMILIES:
        digests = digest.code(family.name), digest.choice(family.name, target.device_kind)
        print("kernels      {}: {}, choice of tiles {}".format(family.name, *digests))
    if has_kernels(target):
        from . import session

        return session.run(target, options.minutes)
    from . import interpreted

    why = "this is no Hopper GPU" if target.is_gpu else "there is no GPU here"
    print(f"\n{why}: XLA serves every convolution. Checking a few kernels in the interpreter, races included.\n")
    return interpreted.run()


def _print_plan(target: Target, minutes: float) -> int:
    from ..wanted import wanted
    from . import plan, text

    rows = plan.rows(wanted())
    print(*text.planned(rows, plan.checks(rows, target), target, minutes), sep="\n")
    return 0

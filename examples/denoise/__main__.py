"""`python -m examples.denoise`: train, compare, run the kernels, explain, draw. Exits non-zero if a check fails."""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp

import pallas_conv as pc

from . import data, figure, miniature, report, training
from .model import UNet

FIRST = 20  # losses compared one by one


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.denoise", description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="training steps of each model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, patches and noise (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/denoise.png"), help="the picture (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="100 steps, unless --steps says otherwise")
    chosen = parser.parse_args()
    if chosen.quick and chosen.steps == parser.get_default("steps"):
        chosen.steps = 100
    if chosen.steps <= training.WARM_UP + FIRST:
        parser.error(f"--steps {chosen.steps}: more than {training.WARM_UP + FIRST} are needed to compare anything")
    return chosen


def main() -> int:
    chosen = arguments()
    started = time.perf_counter()
    failures: list[str] = []

    def check(passed: bool, what: str) -> None:
        print(f"  {'ok    ' if passed else 'FAILED'}  {what}")
        if not passed:
            failures.append(what)

    stock_model = UNet(key=jax.random.key(chosen.seed))
    models = {"stock equinox": stock_model, "pallas_conv": pc.convert(stock_model, to="pallas_conv")}
    device = jax.devices()[0]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(stock_model, eqx.is_array)))
    print(f"A U-Net of {parameters:,} parameters learns to denoise photographs (noise of 25/255), twice.")
    print(f"On {device.device_kind} ({platform.machine()}, {os.cpu_count()} cores), jax {jax.__version__}.\n")
    print(str(pc.convert_report(models["pallas_conv"])).splitlines()[0] + ".\n", flush=True)

    patches = data.Patches(chosen.seed)
    runs = training.train(models, patches, chosen.steps)
    stock, ours = runs

    validation = data.held_out(chosen.seed)
    before = data.psnr(validation.noisy, validation.clean)
    denoised = [run.denoise(validation.noisy) for run in runs]
    after = [data.psnr(picture, validation.clean) for picture in denoised]
    speed_up = training.SpeedUp.of(stock, ours)

    print(f"\nOn {len(data.HELD_OUT)} photographs not trained on   {stock.name:>15}   {ours.name:>13}")
    print(f"  PSNR, noisy                   {before:>12.2f} dB   {before:>10.2f} dB")
    print(f"  PSNR, denoised                {after[0]:>12.2f} dB   {after[1]:>10.2f} dB")
    print(f"  training step, median         {speed_up.baseline_ms:>12.1f} ms   {speed_up.ms:>10.1f} ms")
    print(f"  speed-up                      {'':>15}   {speed_up.ratio:>11.2f} x", end="")
    print(f"   (middle half of the steps: {speed_up.low:.2f} to {speed_up.high:.2f})\n")

    drift = training.largest_relative_difference(stock.losses[:FIRST], ours.losses[:FIRST])
    check(drift <= 1e-3, f"the first {FIRST} losses agree to {drift:.1e} relative (bound 1e-3)")
    check(abs(after[1] - after[0]) <= 0.2, f"final PSNRs {abs(after[1] - after[0]):.3f} dB apart (bound 0.2)")
    check(min(after) >= before + 3, f"denoising gains {min(after) - before:.1f} dB (bound 3)")

    # Hopper and its kernels, or the same kernels in the interpreter.
    kernels, patience = ("mosaic", "") if is_hopper(device) else ("interpret", ": a minute or two")
    print(f"\nOne training step of a miniature through the kernels ({kernels}, bfloat16){patience}", flush=True)
    result = miniature.step_through_kernels(chosen.seed, kernels)
    print(report.table(result.plans))
    check(
        result.passed,
        f"largest gradient difference from float32: {result.kernel_error:.1e} of the largest gradient "
        f"(bound {result.bound:.1e}, twice that of XLA in bfloat16)",
    )

    explain(ours.model, patches, chosen.seed)
    figure.draw(chosen.out, validation, denoised[1], runs, speed_up)
    print(f"\nPicture: {chosen.out}. {time.perf_counter() - started:.0f} s in all.")
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    return len(failures) > 0


def is_hopper(device: jax.Device) -> bool:
    return device.platform == "gpu" and getattr(device, "compute_capability", None) == "9.0"


def explain(trained: UNet, patches: data.Patches, seed: int) -> None:
    """The decisions behind one training step: the one above here, and in bfloat16 on an H100."""
    batch = patches(0)
    step, parameters = miniature.training_step(trained)
    print("\nA training step as it ran on this machine:")
    print(report.table(pc.explain(step, parameters, *batch)))
    step, parameters = miniature.training_step(UNet(layers=pc, compute_dtype=jnp.bfloat16, key=jax.random.key(seed)))
    print("\nThe same step with compute_dtype=jnp.bfloat16, on an H100:")
    print(report.table(pc.explain(step, parameters, *batch, device="h100")))


if __name__ == "__main__":
    sys.exit(main())

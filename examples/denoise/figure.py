"""The picture: what the network does, and that both libraries learn the same."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from .data import Pair, psnr
from .training import Run, SpeedUp

STOCK, OURS, GREY = "#b8bec9", "#1f5fbf", "#5b6270"
CROPS = ((slice(40, 220), slice(130, 390)), (slice(60, 240), slice(90, 350)))  # one for each held-out photograph


def draw(path: Path, validation: Pair, denoised: np.ndarray, runs: list[Run], speed_up: SpeedUp) -> None:
    style = {"font.size": 10, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "text.color": "#20242c"}
    with plt.rc_context(style):
        figure = plt.figure(figsize=(10, 7.2), layout="constrained")
        pictures, curves = figure.subfigures(2, 1, height_ratios=[2.15, 1], hspace=0.03)
        _photographs(pictures, validation, denoised)
        _losses(curves, runs, speed_up)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _photographs(figure: matplotlib.figure.SubFigure, validation: Pair, denoised: np.ndarray) -> None:
    rows = figure.subplots(len(CROPS), 3)
    for axes, crop, noisy, clean, ours in zip(rows, CROPS, *validation, denoised, strict=True):
        shown = [picture[:, *crop] for picture in (noisy, ours, clean)]
        titles = (f"noisy, {psnr(shown[0], shown[2]):.1f} dB", f"denoised, {psnr(shown[1], shown[2]):.1f} dB", "clean")
        for axis, title, picture in zip(axes, titles, shown, strict=True):
            axis.imshow(np.clip(np.moveaxis(picture, 0, -1), 0, 1), interpolation="lanczos")
            axis.set_title(title, fontsize=10, pad=4)
            axis.set_axis_off()


def _losses(figure: matplotlib.figure.SubFigure, runs: list[Run], speed_up: SpeedUp) -> None:
    axis = figure.subplots()
    lines = ((runs[0], STOCK, 5.0, speed_up.baseline_ms), (runs[1], OURS, 1.2, speed_up.ms))
    for run, color, width, ms in lines:
        axis.semilogy(run.losses, color=color, linewidth=width, label=f"{run.name}, {ms:.0f} ms a step")
    axis.set_xlim(0, len(runs[0].losses) - 1)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("training step", color=GREY)
    axis.set_ylabel("loss", color=GREY)
    axis.grid(axis="y", which="major", color="#e6e8ec")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper right")

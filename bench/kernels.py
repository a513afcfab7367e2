"""The suite as kernels would run it: tile, work, bytes, predicted time and its floor. Nothing is timed.

    python -m bench.kernels              # modelled, in seconds
    python -m bench.kernels --compile    # and compiled for an H100 that need not be there: registers, spills, shared memory
    python -m bench.kernels --out rows.jsonl --chart speed.png

Times are those of the model by which tiles are ranked (kernels/cost.py): on the nominal chip, and at most on those that are
plausible as well, as long as nothing is measured (kernels/chips.json). The floor is the larger of the useful multiply-adds at
the tensor cores' peak and of every operand read and every result written once, on the nominal chip. A tile of
2x128x64x32/4 is of two warpgroups, each of 128 pixels and 64 channels in steps of 32, and has its channels in four parts; of
another family than the dense one it is the sizes in its configuration that are not 1, in their order.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from compiled.kernels import compiled
from pallas_conv.kernels import cost, families, serve
from pallas_conv.kernels.chips import chips
from pallas_conv.kernels.dense import DENSE
from pallas_conv.kernels.dense.plan import Config, Problem, tiling
from pallas_conv.kernels.family import Size
from pallas_conv.kernels.gpu import ANY_HOPPER as GPU
from pallas_conv.spec import Product
from workloads.cases import Case, suite
from workloads.served import products

from .chart import COLOURS, family, group

DIRECTIONS = {"f": "forward (f)", "d": "input gradient (d)", "w": "weight gradient (w)", "b": "all gradients (b)"}


def case_of(name: str) -> Case:
    return next(case for case in suite() if case.name == name.partition("/")[0])


def plan(product: Product) -> dict[str, Any]:
    """The model's figures of a product that is served."""
    kernel = serve.kernel(product, GPU)
    cfg, size = kernel.config, kernel.size
    asked = kernel.family.work(kernel.family.problem(product), cfg, GPU)
    us = [chip.microseconds(cost.clocks(asked, chip)) for chip in chips(GPU)]
    return {
        **(_of_dense(product, cfg) if kernel.family is DENSE else _of_any(cfg, asked)),
        "config": str(cfg),
        "stages": asked.stages,
        "useful_gflop": 2e-9 * size.macs,
        "executed_by_useful": cost.executed(asked) / size.macs,
        "mbytes": 1e-6 * size.nbytes,
        "predicted_us": us[0],
        "least_predicted_us": min(us),
        "most_predicted_us": max(us),
        "floor_us": floor_us(size, asked.itemsize),
    }


def _of_dense(product: Product, cfg: Config) -> dict[str, Any]:
    t = tiling(Problem.of(product), cfg)
    return {
        "tile": f"{cfg.mma_warpgroups}x{cfg.tile_m}x{cfg.tile_n}x{cfg.tile_k}"
        + (f"/{cfg.split_k}" if cfg.split_k > 1 else ""),
        "smem_bytes": t.smem_bytes,
        "waves": t.work_tiles * cfg.cluster / (GPU.num_sms * cfg.ctas_per_sm),
    }


def _of_any(cfg: Any, asked: cost.Work) -> dict[str, Any]:
    """The sizes in a configuration that are not 1, and the tiles of the busiest block."""
    numbers = [n for n in _numbers(cfg.to_json()) if n > 1]
    return {"tile": "x".join(map(str, numbers)) or "1", "waves": sum(count for count, _ in asked.rounds)}


def _numbers(data: Any) -> Iterator[int]:
    """The whole numbers in a JSON value, in their order."""
    if isinstance(data, int) and not isinstance(data, bool):
        yield data
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _numbers(value)


def floor_us(size: Size, itemsize: int) -> float:
    """The least microseconds that useful multiply-adds and least traffic allow on the nominal chip."""
    chip = chips(GPU)[0]
    multiply = 2 * size.macs / (cost.flops_per_clock(itemsize, chip) * GPU.num_sms)
    return chip.microseconds(max(multiply, size.nbytes / cost.dram_bytes_per_clock(chip)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="for an H100: seconds a product")
    parser.add_argument("--only", default="", help="products whose name, as in unet_mid/f, contains this")
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines, too")
    parser.add_argument("--chart", type=pathlib.Path, help="an image, too")
    args = parser.parse_args(argv)
    wanted = [(name, product) for name, product in products() if args.only in name]
    rows = []
    for name, product in tqdm(wanted, unit="product", disable=None):
        why = families.reasons(product, GPU.generation.capability)
        found = {"reasons": why} if why else plan(product)
        if args.compile and not why:
            _, used = compiled(product, serve.choose(product, GPU))
            found |= {"registers": used.registers, "spills": used.spills, "smem_bytes": used.smem_bytes}
        rows.append({"name": name, **found})
    print(_table(rows))
    if args.out:
        args.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if args.chart:
        draw([row for row in rows if "reasons" not in row], args.chart)
    return 0


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'':26} {'tile':>14} {'stages':>6} {'regs':>4} {'KiB':>4} {'waves':>6} {'GFLOP':>8} {'executed':>8} {'MB':>7} "
        f"{'us':>8} {'at most':>8} {'floor':>8}"
    ]
    for row in rows:
        if "reasons" in row:
            lines.append(f"{row['name']:26} none: {row['reasons'][0]}")
            continue
        lines.append(
            f"{row['name']:26} {row['tile']:>14} {row['stages']:6} {row.get('registers', ''):>4} "
            f"{row['smem_bytes'] // 1024 if 'smem_bytes' in row else '':4} {row['waves']:6.1f} {row['useful_gflop']:8.1f} "
            f"{row['executed_by_useful']:7.2f}x {row['mbytes']:7.0f} {row['predicted_us']:8.0f} "
            f"{row['most_predicted_us']:8.0f} {row['floor_us']:8.0f}"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], out: pathlib.Path) -> None:
    """Draw how near to its floor the model sees each product: bars on the nominal chip, lines over all plausible ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colour = {row["name"]: group(family(case_of(row["name"]))) for row in rows}
    rows = sorted(
        rows, key=lambda row: (list(COLOURS).index(colour[row["name"]]), row["floor_us"] / -row["predicted_us"])
    )
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.155 * len(rows)), layout="constrained")
    # Above 1 where taps over padding are skipped.
    part = lambda time: [min(1.0, row["floor_us"] / row[time]) for row in rows]
    ticks = [-i for i in range(len(rows))]
    axes.barh(ticks, part("predicted_us"), height=0.75, color=[COLOURS[colour[row["name"]]] for row in rows], zorder=2)
    line: dict[str, Any] = {"color": "black", "linewidth": 1}
    axes.hlines(ticks, part("most_predicted_us"), part("least_predicted_us"), **line, zorder=3)
    labels = [f"{row['name']}  {row['predicted_us']:.0f} us" for row in rows]
    axes.set_yticks(ticks, labels, fontsize=6.5)
    axes.set_ylim(-len(rows) + 0.3, 0.7)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.grid(axis="x", color="0.88", zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("modelled, unmeasured: part of the speed that useful multiply-adds and least traffic allow at best")
    key: list[Any] = [Patch(color=COLOURS[g], label=g) for g in COLOURS if g in colour.values()]
    key.append(Line2D([], [], **line, label="over plausible chips"))
    axes.legend(handles=key, fontsize=8, loc="lower right")
    there = {row["name"].rpartition("/")[2] for row in rows}
    figure.suptitle(f"Kernels on an H100: {', '.join(DIRECTIONS[d] for d in DIRECTIONS if d in there)}", fontsize=11)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    sys.exit(main())

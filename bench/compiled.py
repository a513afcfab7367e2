"""Programs that XLA makes of the suite on a GPU that need not be here: stock equinox beside `auto`, compiled, not timed.

    python -m bench.compiled --target h100 --out bench/results/compiled_h100.jsonl

For every transposed, dilated and 3-D layer, each product alone (f, d, w) and forward and backward together (fb), through the
channels-first layer: the library calls with their windows, multiply-adds that they stand for beside the useful ones, kernels
launched, bytes of temporary memory (without the library's own workspace, which is chosen at run time). With --kernels also the
program under ("mosaic", "auto"), whose kernels stand for no library call.
"""

import argparse
import json
import pathlib
import re
import sys
from typing import Any

from tqdm import tqdm

from compiled.beside_stock import TARGETS, layers, measure

from .formulations import machine


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    cells = [f"{row['layer']:16} {row['direction']:2}"]
    for name in [name for name in ("stock", "auto", "mosaic") if name in row]:
        facts = row[name]
        windows = ", ".join(f"{c['kind']} {c['window'].split(' ')[0].removeprefix('size=')}" for c in facts["calls"])
        cells.append(
            f"{name:6} {facts['flops'] / row['useful_flops']:6.1f}x useful, {facts['kernels']:2} kernels, "
            f"{facts['temp_bytes'] / 1e6:6.1f} MB: {windows}"
        )
    return "\n    ".join(cells)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.compiled", description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=TARGETS, default="h100")
    parser.add_argument("--out", type=pathlib.Path, help="write one JSON line a row here, in place of what is there")
    parser.add_argument("--only", default="", help="layers whose name this regular expression finds")
    parser.add_argument(
        "--random", type=int, default=0, metavar="COUNT", help="random layers, fb alone, instead of the suite's"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random layers")
    parser.add_argument("--whole", action="store_true", help="forward and backward together, alone")
    parser.add_argument("--kernels", action="store_true", help='the program under ("mosaic", "auto"), too')
    args = parser.parse_args(argv)
    chosen = [case for case in layers(args.random, args.seed) if re.search(args.only, case.name)]
    alone = args.random or args.whole
    work = [(case, d) for case in chosen for d in (["fb"] if alone else [*case.directions, "fb"])]
    rows = [json.dumps({"machine": machine(), "target": args.target, "random": args.random, "seed": args.seed})]
    for case, direction in tqdm(work, unit="program"):
        row = measure(case, direction, args.target, args.kernels)
        tqdm.write(line(row))
        rows.append(json.dumps(row))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

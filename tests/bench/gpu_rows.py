"""Rows of the GPU script, and the context of its steps, as a Hopper GPU would have them."""

import json
import pathlib
import time

from bench import gpu, runner
from bench.runner import log
from pallas_conv.target import resolve

ROOT = pathlib.Path(gpu.__file__).resolve().parents[1]
H100 = resolve("h100")


def rows_in(folder):
    (file,) = folder.glob("*.jsonl")
    return log.read(file)


PEAKS = {"copy": {"gbps": 3000.0}, "gemm_bf16": {"tflops": 800.0}}


def context_in(folder, *rows):
    file = folder / "rows.jsonl"
    peaks = [{"kind": "peak", "name": name, "status": "ok"} | row for name, row in PEAKS.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in [*peaks, *rows]))
    words = [f"--out={folder}", f"--cache={folder / 'cache'}", f"--file={file}", "--processes=0"]
    options = runner.parse(gpu.SCRIPT, words)
    return runner.Context(options, log.Log(file, time.time()))

"""Records of hardware runs: which kernel variants are right, and no slower than XLA, on which device.

A record file is JSON:

    {"device_kind", "jax", "fingerprint" (of the kernels' sources), "driver", "date",
     "evidence" (of shipped records: the committed hardware run behind it),
     "variants": {variant: {"correct": bool, "paths": [Config.path that were checked, ...],
                            "timings": [{"macs", "kernel_us", "lax_us", "lax" (the formulation that `auto` takes
                                         otherwise), "source"}, ...]}}}

Shipped ones lie in `records/` beside this file; `python -m pallas_conv doctor` writes the user's own.
"""

import contextlib
import functools
import json
import logging
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from . import env, formulations
from .kernels import config, support, work
from .spec import Product
from .target import Target

SHIPPED = pathlib.Path(__file__).parent / "records"
_USER_FOLDER = "records"

_log = logging.getLogger("pallas_conv")


class Trust(NamedTuple):
    trusted: bool
    why: str


def useful_macs(product: Product) -> int:
    """Multiply-adds of the definition: the size by which timings are compared."""
    return work.useful_macs(config.Problem.of(product))


def verdict(product: Product, target: Target, path: Callable[[], str]) -> Trust:
    """May `auto` take the kernel for this product on this device, on this path through it (`Config.path`)?

    Paths take a while to choose, and are asked for only where the variant is on record.
    """
    variant = support.variant(product)
    here = [
        (file, record)
        for file, record in _records(include_user=jax.process_count() == 1)
        if (record["device_kind"], record["jax"], record["fingerprint"])
        == (target.device_kind, jax.__version__, support.fingerprint())
    ]
    entries = [(file, record["variants"][variant]) for file, record in here if variant in record["variants"]]
    if not entries:
        advice = (
            "doctor does not check this variant" if here else "`python -m pallas_conv doctor` checks the common ones"
        )
        if not here:
            _suggest_doctor(str(target.device_kind))
        return Trust(
            False,
            f"unproven on this device: no record of {variant} on {target.device_kind} with JAX {jax.__version__} and these "
            f"kernels; {advice}",
        )
    file, entry = entries[-1]
    if not entry["correct"]:
        return Trust(False, f"not found right on this device, says the record {file.name}")
    if (taken := path()) not in entry["paths"]:
        return Trust(False, f"unproven on this device: tiles of this kind ({taken}) are not in the record {file.name}")
    rival, _ = formulations.choose(product, target)
    of_kernels = "cupti"  # the clock measures launches, too
    timings = [t for t in entry["timings"] if t["source"] == of_kernels and t["lax"] == rival]
    if not timings:
        return Trust(False, f"not timed on this device against the lax program {rival!r}, says the record {file.name}")
    macs = useful_macs(product)
    nearest = min(timings, key=lambda t: abs(math.log(t["macs"] / macs)))
    ratio = nearest["lax_us"] / nearest["kernel_us"]
    why = f"{ratio:.2f}x XLA's speed at {nearest['macs']:.2g} multiply-adds, says the record {file.name}"
    return Trust(ratio >= 1, why if ratio >= 1 else f"slower on this device: {why}")


def save(record: dict[str, Any]) -> pathlib.Path:
    """Keep the record of this machine in the user's cache; an older one of the same device, JAX and kernels is replaced."""
    folder = env.read("PALLAS_CONV_CACHE_DIR") / _USER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    device = "".join(c if c.isalnum() else "-" for c in record["device_kind"])
    path = folder / f"{device}_jax-{record['jax']}_{record['fingerprint']}.json"
    whole = path.with_suffix(".tmp")
    whole.write_text(json.dumps(record, indent=1))
    whole.replace(path)  # nobody reads half of one
    return path


def _records(include_user: bool) -> list[tuple[pathlib.Path, dict[str, Any]]]:
    """Shipped records, then the user's own, which overrule them."""
    folders = [(SHIPPED, True)]
    if include_user:
        with contextlib.suppress(RuntimeError):  # no home, no records
            folders.append((env.read("PALLAS_CONV_CACHE_DIR") / _USER_FOLDER, False))
    found = []
    for folder, shipped in folders:
        for path in sorted(folder.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile
                if (record := _load(path, path.stat().st_mtime_ns, shipped)) is not None:
                    found.append((path, record))
    return found


@functools.lru_cache(maxsize=64)
def _load(path: pathlib.Path, _mtime: int, shipped: bool) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text())
        _check(record, shipped)
        return record
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        _log.warning("pallas_conv: %s is no readable record and is ignored; delete it or run doctor again", path)
        return None


def _check(record: dict[str, Any], shipped: bool) -> None:
    """Raises for what is no record."""
    for key in ("device_kind", "jax", "fingerprint", *(["evidence"] if shipped else [])):
        if not isinstance(record[key], str):
            raise TypeError(f"{key} is {record[key]!r}")
    for entry in record["variants"].values():
        _ = bool(entry["correct"]), set(entry["paths"])
        for timing in entry["timings"]:
            told = timing["source"] and timing["lax"]
            if min(timing["macs"], timing["kernel_us"], timing["lax_us"]) <= 0 or not told:
                raise ValueError(f"timing {timing}")


@functools.cache
def _suggest_doctor(device_kind: str) -> None:
    _log.info(
        "pallas_conv: XLA serves convolutions on %s until kernels are proven there: run `python -m pallas_conv doctor` once",
        device_kind,
    )

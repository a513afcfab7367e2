"""Ends the summaries of scripts: they fit, and say last where a run happened and what went wrong."""

import collections

from .log import digests
from .script import BAD, SKIPPED, Row

LONGEST = 11_000  # characters: what reads a summary may cut off the rest
MOST_BAD = 25  # failures told; the file has all


def shortened(text: str) -> str:
    """A text that fits: its beginning and its end."""
    if len(text) <= LONGEST:
        return text
    cut = "\n... cut, see the file ...\n"
    half = (LONGEST - len(cut)) // 2
    return text[:half] + cut + text[-half:]


def fitting(lines: list[str], ending: list[str]) -> str:
    """The first of the lines, as many as fit before the ending, and that."""
    shown: list[str] = []
    room = LONGEST - len("\n".join(ending)) - 100
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            shown.append(f"... {len(lines) - len(shown)} more lines, in the file")
            break
        shown.append(line)
    return "\n".join([*shown, "", *ending])


def ending(rows: list[Row]) -> list[str]:
    """Lines: the device, how many rows of which status, what was skipped, and failures last."""
    return [*_device(rows), *_counts(rows), *_skipped(rows), *_failures(rows)]


def _device(rows: list[Row]) -> list[str]:
    found = [r for r in rows if r["kind"] == "device" and r["status"] == "ok"]
    lines = ["NOT A GPU: times only show that the script runs"] if any(r["platform"] != "gpu" for r in found) else []
    return lines + [
        f"{r['device_kind']}, JAX {r['jax']}, driver {r['driver']}, code {digests(r['code'])}, "
        f"choice {digests(r['choice'])}, commit {r['commit']}"
        for r in found[:1]
    ]


def _counts(rows: list[Row]) -> list[str]:
    of: dict[str, collections.Counter[str]] = {}
    for r in rows:
        if not r["status"].startswith(SKIPPED):
            of.setdefault(r["kind"], collections.Counter())[r["status"]] += 1
    return [f"{kind:12} " + ", ".join(f"{n} {status}" for status, n in counts.items()) for kind, counts in of.items()]


def _skipped(rows: list[Row]) -> list[str]:
    whys = [r["status"].removeprefix(SKIPPED) for r in rows if r["status"].startswith(SKIPPED)]
    counts = collections.Counter(why.partition(": ")[0] for why in whys)  # of all code paths together
    return [f"{'skipped':12} " + ", ".join(f"{n} {why}" for why, n in counts.items())] if counts else []


def _failures(rows: list[Row]) -> list[str]:
    bad = [r for r in rows if r["status"] in BAD]
    lines = [" ".join(filter(None, ["BAD ", r["kind"], _name(r), r["status"], _why(r)])) for r in bad[:MOST_BAD]]
    return lines + [f"BAD  and {len(bad) - MOST_BAD} more, in the file"] * (len(bad) > MOST_BAD)


def _name(row: Row) -> str:
    return f"{row['name']}{' ' * ('impl' in row)}{row.get('impl', '')}:"


def _why(row: Row) -> str:
    why = " ".join(str(row.get(key)) for key in ("exception", "detail", "code_path") if row.get(key))
    return why[:160]

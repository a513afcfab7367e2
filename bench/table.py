"""The table of a run of bench.gpu: each layer's programs beside each other."""

from .runner import Row, summary

HEAD = f"{'case':24} {'stock ms':>10} {'best ms':>10} {'ours ms':>10} {'ratio':>6} {'TFLOP/s':>8} {'GB/s':>7} {'of floor':>8}"


def text(rows: list[Row]) -> str:
    """The table, layers with a kernel of ours first, then the peaks and what every summary ends with.

    ratio: the fastest lax program's time divided by ours, or stock's by best's where we have no kernel. The last three columns
    describe the last program listed in the row.
    """
    peaks = [line for row in rows if row["kind"] == "peak" and row["status"] == "ok" and (line := _peak(row))]
    return summary.fitting(table(rows), [*peaks, *_spread(rows), *summary.ending(rows)])


def table(rows: list[Row]) -> list[str]:
    times: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["kind"] in ("stock", "time") and "ms" in row:
            times.setdefault(row["name"], {})[row.get("impl", "stock")] = row
    ordered = sorted(times.items(), key=lambda item: "ours" not in item[1])  # stable
    return [HEAD, *(_line(name, by) for name, by in ordered)] if times else []


def _line(name: str, by: dict[str, Row]) -> str:
    last = by.get("ours") or by.get("best") or by["stock"]
    ms = " ".join(f"{by[impl]['ms']:10.4f}" if impl in by else f"{'-':>10}" for impl in ("stock", "best", "ours"))
    ratio, part = last.get("ratio_best", last.get("ratio")), last.get("fraction")
    shown = ("-" if ratio is None else f"{ratio:.2f}"), ("-" if part is None else f"{part:.1%}")
    return f"{name:24} {ms} {shown[0]:>6} {last['tflops']:8.1f} {last['gbps']:7.0f} {shown[1]:>8}"


def _peak(row: Row) -> str:
    for unit, said in (
        ("gbps", "GB/s"),
        ("tflops", "TFLOP/s"),
        ("seconds", "s a session, the first {first_seconds:.2f}"),
    ):
        if unit in row:
            return f"peak {row['name']:13} {row[unit]:.4g} {said.format_map(row)}"
    return ""


def _spread(rows: list[Row]) -> list[str]:
    ratios = [row["ratio"] for row in rows if row["kind"] == "spread" and "ratio" in row]
    return (
        [f"stock compiled anew: times of {len(ratios)} programs differ by up to {max(ratios) - 1:.1%}"]
        if ratios
        else []
    )

"""The table and the summary of a run of the GPU script."""

from bench import runner, table
from bench.runner import summary


def timed(name, **by_impl):
    row = {"kind": "time", "name": name, "status": "ok", "tflops": 500.0, "gbps": 900.0, "fraction": 0.75}
    return [row | {"impl": impl, "ms": ms} | more for impl, (ms, more) in by_impl.items()]


def test_a_table_shows_ours_beside_stock():
    numbers = ["500.0", "900", "75.0%"]
    ours = {"ratio": 2.0, "ratio_best": 1.5}
    rows = timed("a/f", stock=(2.0, {}), ours=(1.0, ours))
    assert table.table(rows)[-1].split() == ["a/f", "2.0000", "-", "1.0000", "1.50", *numbers]
    rows = timed("a/f", stock=(2.0, {}), best=(1.5, {"ratio": 1.33}), ours=(1.0, ours))
    assert table.table(rows)[-1].split() == ["a/f", "2.0000", "1.5000", "1.0000", "1.50", *numbers]


def test_a_summary_of_many_rows_fits_with_the_table_first_and_failures_last():
    rows = [{"kind": "peak", "name": "copy", "status": "ok", "gbps": 3000.0}]
    rows += [{"kind": "spread", "name": "a/f", "status": "ok", "ratio": 1.25}]
    rows += timed("late/f", stock=(2.0, {}))
    for i in range(150):
        rows += timed(f"layer_{i}/f", stock=(2.0, {}), ours=(1.0, {"ratio_best": 2.0}))
    rows += [{"kind": "ladder", "name": f"rung_{i}", "status": "wrong", "detail": "x" * 900} for i in range(40)]
    rows += [{"kind": "time", "name": f"late_{i}", "status": runner.OUT_OF_TIME} for i in range(60)]
    assert len(rows) > 400
    text = table.text(rows)
    assert len(text) <= summary.LONGEST
    lines = text.splitlines()
    assert lines[0].startswith("case ")
    assert lines[1].startswith("layer_0/f")
    assert "more lines, in the file" in text
    assert [line for line in lines if "out of time" in line] == ["skipped      60 out of time"]
    assert "peak copy          3000 GB/s" in lines
    assert "stock compiled anew: times of 1 programs differ by up to 25.0%" in lines
    assert lines[-2].startswith("BAD  ladder rung_24: wrong xxx")
    assert lines[-1] == "BAD  and 15 more, in the file"

"""Reports from made-up rows: what they say, of which numbers, and what they refuse."""

import json

import pytest

from bench.report import __main__ as report
from bench.report import charts, rows, text
from pallas_conv.kernels import chips

H100 = "NVIDIA H100 80GB HBM3"


def device(kind=H100, platform="gpu", **more):
    return {
        "kind": "device", "name": "device", "status": "ok", "device_kind": kind, "platform": platform, "sms": 132,
        "driver": "580.1", "jax": "0.11.2", "date": "2026-12-01", "versions": {"nvidia-cuda-runtime": "13.0.96"},
        "code": "abc", "choice": "def", "commit": "0123456789abcdef", "changed": "", **more,
    }  # fmt: skip


def peak(name, **rate):
    return {"kind": "peak", "name": name, "status": "ok", **rate}


def time(name, impl, ms, source="cupti", **more):
    rates = {"tflops": 100 / ms, "gbps": 1000 / ms}
    return {"kind": "time", "name": name, "status": "ok", "impl": impl, "ms": ms, "source": source, **rates, **more}


def network(impl, **more):
    row = {"kind": "network", "name": "unet", "status": "ok", "impl": impl, "images": 16, "side": 512}
    return row | {"products": 68, "kernels": 40, "temp_bytes": 13_000_000_000, "loss": 0.9} | more


PEAKS = [peak("copy", gbps=3000.0), peak("gemm_bf16", tflops=800.0), peak("gemm_tf32", tflops=400.0)]
GATE = [
    {"kind": "ladder", "name": "halo", "status": "wrong", "error": 0.5, "bound": 0.01},
    {"kind": "ladder", "name": "plain", "status": "ok", "error": 0.002, "bound": 0.01},
    {"kind": "ladder", "name": "not a number", "status": "wrong", "error": "nan", "bound": 0.01},
    {"kind": "ladder", "name": "broken", "status": "error", "exception": "E: a | b\nc"},
    {"kind": "ladder", "name": "split", "status": "skipped: out of time"},
]
TIMES = [
    time("unet_mid/f", "stock", 1.0),
    time("unet_mid/f", "best", 0.9),
    time("unet_mid/f", "ours", 0.5, error=1e-3, bound=2e-3),
    time("unet_mid/d", "stock", 1.0),
    time("unet_mid/d", "ours", 2.0),
    time("nnunet_mid/f", "stock", 1.0),  # whose kernel hung
    {"kind": "time", "name": "nnunet_mid/f", "status": "hung", "impl": "ours", "exception": "no sign of life"},
    time("unet_up/f", "stock", 4.0),
    time("unet_up/f", "ours", 1.0, source="batches"),
    time("unet_up/fb", "stock", 12.0),
    time("unet_up/fb", "ours", 4.0),
    time("resnext_g32/f", "stock", 3.0),  # which no kernel serves
    {"kind": "time", "name": "resnext_g32/f", "status": "unsupported", "impl": "ours", "reasons": ["groups"]},
]
NETWORKS = [
    network("stock", ms=100.0, kernels=0, products=0),
    network("auto", ms=90.0, ratio=100 / 90, difference=1e-5, bound=1e-3, update_difference=1e-3, update_bound=1e-2),
    network("mosaic", status="wrong", difference=0.5, bound=1e-3, update_difference=1e-3, update_bound=1e-2),
]
FILES = {
    "gpu-20261201-120000.jsonl": [device(), *PEAKS, *GATE, *TIMES],
    "torch_gpu-20261201-120500.jsonl": [device(), peak("torch_copy", gbps=2990.0), time("unet_mid/f", "torch", 0.75)],
    "gpu_networks-20261201-121000.jsonl": [device(), *NETWORKS],
}


def written(folder, files=FILES):
    folder.mkdir(exist_ok=True)
    for name, found in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in found))
    return [str(folder / name) for name in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of a GPU's rows."""
    where = tmp_path_factory.mktemp("h100")
    assert report.main(written(where)) == 0
    return where


def page(folder, name="README.md"):
    return (folder / name).read_text()


def cells(page, first, section):
    """The cells of the line of a section that begins so."""
    _, _, rest = page.partition(f"## {section}\n")
    line = next(line for line in rest.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_product_beside_its_rivals(folder):
    found = cells(page(folder), "unet_mid/f", "Dense 2-D")
    # ms of stock, best lax, kernel, PyTorch; their ratios; rates; part: 200 of 800 TFLOP/s, 2000 of 3000 GB/s
    assert found[1:] == ["1.0000", "0.9000", "0.5000", "0.7500", "2.00x", "1.80x", "1.50x", "200.0", "2000", "67%"]
    assert cells(page(folder), "unet_mid/d", "Dense 2-D")[1:8] == [
        "1.0000", "-", "2.0000", "-", "0.50x", "0.50x", "-",
    ]  # fmt: skip


def test_a_kernel_that_hung_or_is_missing_has_no_ratio(folder):
    assert cells(page(folder), "nnunet_mid/f", "Dense 3-D")[3:8] == ["hung", "-", "-", "-", "-"]
    assert cells(page(folder), "resnext_g32/f", "Grouped")[1:8] == ["3.0000", "-", "-", "-", "-", "-", "-"]


def test_a_time_that_is_not_cuptis_is_marked(folder):
    assert cells(page(folder), "unet_up/f", "Transposed 2-D")[3] == "~1.0000"


def test_means_are_over_the_products_that_a_kernel_serves(folder):
    # stock by ours: 2, 1/2, 4
    assert cells(page(folder), "all", "In short")[1:6] == ["3", "1.59x", "1.53x", "1.50x (1)", "0.50x unet_mid/d"]
    assert cells(page(folder), "whole steps of layers", "In short")[1:3] == ["1", "3.00x"]


def test_checks_are_counted_and_the_worst_is_named(folder):
    found = cells(page(folder), "ladder", "Checks")
    assert found[1:] == ["1", "2", "1", "0", "0", "1", "0", "2", "50", "halo"]


def test_all_that_failed_is_told(folder):
    _, _, rest = page(folder).partition("## What failed\n")
    failures = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| gpu")]
    assert len(failures) == 5
    assert "E: a / b c" in failures[2]


def test_a_network_that_is_wrong_has_no_time(folder):
    assert cells(page(folder), 'unet | `"auto"`', "Training steps of networks")[3:6] == ["90.00", "1.11x", "13000"]
    assert cells(page(folder), 'unet | `("mosaic", "auto")`', "Training steps of networks")[3] == "wrong"


def test_constants_that_were_measured_beside_those_that_the_model_takes(tmp_path):
    micro = {"kind": "micro", "name": "l2_distinct", "status": "ok", "source": "cupti", "value": 29.5, "unit": "B/clk"}
    clock = {"kind": "micro", "name": "dram", "status": "ok", "source": "wall", "value": 1.0, "unit": "TB/s"}
    assert report.main(written(tmp_path, {"micro-20261201-000000.jsonl": [device(), micro, clock]})) == 0
    _, measured, modelled = cells(page(tmp_path), "l2_clk", "Constants of the cost model")
    assert (measured, modelled) == ("29.5", f"{chips.chips()[0].l2_clk:.4g}")
    assert "columns that say modelled" in page(tmp_path)
    assert "| dram_tbs |" not in page(tmp_path)  # by a clock that is not good enough


def test_every_table_and_plot_says_what_its_numbers_are(folder):
    found = page(folder)
    assert found.count("\n| :--") + found.count("![") == found.count(f"*Measured on an {H100}") + found.count(
        "![Measured"
    )
    assert "columns that say compiled" in found
    assert {p.name for p in folder.glob("*.png")} == {"speed-measured.png", "roofline-measured.png"}


def test_the_same_rows_give_the_same_bytes(folder, tmp_path):
    assert report.main([*reversed(written(tmp_path / "again"))]) == 0
    for path in [*folder.glob("*.png"), folder / "README.md"]:
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_later_run_takes_the_place_of_an_earlier_one(tmp_path):
    later = [device(), *PEAKS, time("unet_mid/f", "stock", 1.0), time("unet_mid/f", "ours", 0.25)]
    hung = {"kind": "time", "name": "unet_mid/d", "status": "hung", "impl": "ours"}
    paths = written(tmp_path, {"gpu-20261202-000000.jsonl": [*later, hung], **FILES})
    found = {p.name: p for p in rows.timed(rows.read(map(tmp_path.joinpath, paths)))}
    assert (found["unet_mid/f"].ours, found["unet_mid/f"].ms("best")) == (0.25, None)
    assert found["unet_mid/f"].ms("torch") == 0.75
    assert (found["unet_mid/d"].ours, found["unet_mid/d"].bad) == (None, "hung")


def test_what_tuning_timed_counts_too(tmp_path):
    us = {"stock_us": 900.0, "lax_us": 900.0, "kernel_us": 450.0, "today_us": 500.0, "gain": 500 / 450}
    row = {"kind": "tuned", "name": "unet_mid/d", "status": "ok", "source": "cupti", **us, "timed": [{}, {}]}
    row |= {"config": {"bn": 1}, "today": {"bn": 2}, "facts": {"code_path": "2-D, wide"}}
    tuning = [device(), row, {"kind": "tuned", "name": "unet_mid/f", "status": "skipped: out of time"}]
    spread = {"kind": "spread", "name": "unet_mid/d", "status": "ok", "ms": 1.1, "first_ms": 1.0, "ratio": 1.1}
    paths = written(tmp_path, {"tune-20261202-000000.jsonl": [*tuning, spread], **FILES})
    assert report.main(paths) == 0
    assert cells(page(tmp_path), "unet_mid/d", "Dense 2-D")[1:6] == ["0.9000", "-", "0.4500", "-", "2.00x"]
    assert cells(page(tmp_path), "unet_mid/f", "Dense 2-D")[3] == "0.5000"
    assert cells(page(tmp_path), "unet_mid/d", "Tuning")[1:] == ["2", "500.0", "450.0", "1.111x", "2-D, wide"]
    assert cells(page(tmp_path), "unet_mid/d", "Spread")[1:] == ["1.0000", "1.1000", "10.0%"]
    product = next(p for p in rows.timed(rows.read(map(tmp_path.joinpath, paths))) if p.name == "unet_mid/d")
    assert product.shown["tflops"] == pytest.approx(product.case.flops("d") / 450e-6 / 1e12)


def test_parts_of_the_floor_are_of_the_best_peaks_of_any_run(tmp_path):
    """Tuning measures none."""

    def part(*others):
        files = {f"tune-2026120{i + 2}-000000.jsonl": [device(), *found] for i, found in enumerate(others)}
        read = rows.read(map(tmp_path.joinpath, written(tmp_path, FILES | files)))
        return next(p.part for p in rows.timed(read) if p.name == "unet_mid/f")

    assert part() == part(TIMES[:3]) == pytest.approx(2000 / 3000)
    assert (
        part(TIMES[:3], [peak("copy", gbps=4000.0)]) == part([peak("copy", gbps=4000.0)]) == pytest.approx(2000 / 4000)
    )
    assert part([peak("copy", gbps=2000.0)]) == part()


def test_products_of_networks_have_a_line_a_network(tmp_path):
    us = {"stock_us": 900.0, "lax_us": 600.0, "kernel_us": 450.0}
    row = {"kind": "tuned", "name": "dcgan/d 3x64x64-128 k4x4", "status": "ok", "source": "cupti", **us}
    slower = row | {"name": "dcgan/f 3x64x64-128 k4x4", "kernel_us": 600.0}
    late = row | {"name": "dcgan/f 9x64x64-128 k4x4", "status": "skipped: out of time"}
    paths = written(tmp_path, {"tune-20261202-000000.jsonl": [device(), row, slower, late], **FILES})
    assert report.main(paths) == 0
    assert cells(page(tmp_path), "dcgan", "Products of networks")[1:] == ["2", "1.73x", "1.15x", "1", "1"]


# ---------------------------------------------------------------- what is no GPU's

DRY = {name: [device("cpu", "cpu"), *found[1:]] for name, found in FILES.items()}


def test_a_report_of_a_dry_run_says_so_everywhere(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(charts, "_speed", lambda _, said: titles.append(said.measured))
    assert report.main(written(tmp_path, DRY)) == 0
    found = page(tmp_path, "README-dry-run.md")
    assert found.startswith("# DRY RUN, NOT A GPU\n")
    assert "Measured on" not in found
    assert found.count("\n| :--") == found.count("\n*DRY RUN, NOT A GPU")
    assert titles == ["DRY RUN, NOT A GPU: of a CPU, on tiny sizes"]
    assert [p.name for p in tmp_path.glob("*.png")] == ["roofline-dry-run.png"]
    assert not (tmp_path / "README.md").exists()


PAGE = f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\nMore.\n"


def test_the_table_of_another_page_is_replaced(tmp_path):
    gpu = tmp_path / "gpu.md"
    gpu.write_text(PAGE)
    paths = written(tmp_path / "h100")
    for _ in range(2):  # the second time its own
        assert report.main([*paths, f"--page={gpu}"]) == 0
    found = gpu.read_text()
    assert found.startswith(f"# Title\n\n{report.BEGIN}\n*Measured on an {H100}. 2026-12-01; driver 580.1, JAX 0.11.2")
    assert found.endswith(f"{report.END}\n\nMore.\n")
    assert "old" not in found
    assert "h100/speed-measured.png" in found
    assert "[h100](h100/README.md)" in found
    assert cells(found.replace(report.BEGIN, "## Table\n"), "unet", "Table")[1:] == ["100.00", "90.00", "wrong"]


def test_the_page_takes_no_rows_of_a_dry_run(tmp_path, capsys):
    gpu = tmp_path / "gpu.md"
    gpu.write_text(PAGE)
    assert report.main([*written(tmp_path / "dry", DRY), f"--page={gpu}"]) == 1
    assert "dry run" in capsys.readouterr().err
    assert gpu.read_text() == PAGE


def test_a_page_without_markers_is_left_alone(tmp_path, capsys):
    gpu = tmp_path / "gpu.md"
    gpu.write_text("# Title\n")
    assert report.main([*written(tmp_path / "h100"), f"--page={gpu}"]) == 1
    assert report.BEGIN in capsys.readouterr().err
    assert not (tmp_path / "h100" / "README.md").exists()


def test_links_lead_from_the_folder_of_the_page_to_that_of_the_rows(tmp_path):
    gpu = tmp_path / "docs" / "guide" / "gpu.md"
    gpu.parent.mkdir(parents=True)
    gpu.write_text(PAGE)
    assert report.main([*written(tmp_path / "h100"), f"--page={gpu}"]) == 0
    assert "[h100](../../h100/README.md)" in gpu.read_text()
    assert "(../../h100/speed-measured.png)" in gpu.read_text()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([device("NVIDIA H200")], "several devices"),
        ([device("cpu", "cpu")], "dry run"),
        ([peak("copy", gbps=1.0)], "no row says on which device"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(tmp_path, capsys, more, why):
    assert report.main(written(tmp_path, {**FILES, "other-20261204-000000.jsonl": more})) == 1
    assert why in capsys.readouterr().err
    assert not list(tmp_path.glob("*.md"))


def test_numbers_of_a_run_without_products(tmp_path):
    """A run that ended before anything was timed still has a report of what failed."""
    assert report.main(written(tmp_path, {"gpu-20261201-000000.jsonl": [device(), *GATE]})) == 0
    assert "## What failed" in page(tmp_path)
    assert not list(tmp_path.glob("*.png"))
    assert text.DRY_RUN not in page(tmp_path)

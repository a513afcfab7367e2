"""Renewal of records: source that compiles to the same instructions keeps a record, source that does not is refused."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import pytest

from bench import instructions, renew
from pallas_conv.dispatch import record
from pallas_conv.dispatch.record import Program, Record, Source
from pallas_conv.kernels import digest, serve
from pallas_conv.kernels.dense.plan import Config
from pallas_conv.kernels.gpu import Gpu
from tests.kernels.cases import product

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = Config((1, 8, 8), 32, tile_k=32, stages=2, mma_warpgroups=1)
PRODUCT = product("fprop", 2, (32, 32), (9, 7), 3, 1, 1, bias=True)
OLD = Source("0.0.1", "0" * 12, "run")


def ran(*programs: Program) -> Record:
    return Record(
        "dense", "NVIDIA H100 80GB HBM3", "9.0", "1.0", "2026-01-01", (OLD,), "", {}, (), programs, ("a.jsonl",)
    )


@pytest.fixture(scope="module")
def program():
    return Program(PRODUCT, CONFIG.to_json(), 4, instructions.digest(serve.kernel(PRODUCT, Gpu(4), CONFIG)))


def in_copy(folder: pathlib.Path, edit) -> subprocess.CompletedProcess:
    """`python -m bench.renew` of a record, in a copy of the project whose kernels are edited."""
    for name in ("kernels", "pallas_conv", "bench", "compiled"):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("results", "__pycache__")
        )
    edit(folder / "kernels")
    command = [sys.executable, "-m", "bench.renew", "record.json"]
    env = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=250)


def replaced(file: str, old: str, new: str):
    def edit(kernels):
        text = (kernels / file).read_text()
        assert old in text
        (kernels / file).write_text(text.replace(old, new))

    return edit


def refactored(kernels):
    """Lines moved, names changed, a function taken apart, a kernel renamed."""
    for file, old, new in (
        ("dense/sm90.py", '"""The dense convolution', '"""Moved.\n\nThe dense convolution'),
        ("dense/sm90.py", "firsts", "first_pixels"),
        ("dense/sm90.py", "class _Global(", "\n\n\nclass _Global("),
        ("serve.py", 'f"{self.family.name}_{', 'f"convolution_{'),
    ):
        replaced(file, old, new)(kernels)


@pytest.mark.aot
def test_a_refactored_copy_keeps_its_record(tmp_path, program):
    record.save(ran(program), tmp_path / "record.json")
    done = in_copy(tmp_path, refactored)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 1 kernels are equal" in done.stdout
    first, second = record.load(tmp_path / "record.json").sources
    assert first == OLD
    assert (second.jax, second.how) == (jax.__version__, "instructions")
    assert second.code != digest.code("dense")  # what was renamed counts, until it is compiled


@pytest.mark.aot
@pytest.mark.parametrize(
    "mutation",
    [
        replaced("dense/sm90.py", "mgpu.wgmma_wait(cfg.taps_per_step * self.tiling.halo_taps)", "mgpu.wgmma_wait(2)"),
        # Only the host's code: where in memory a TMA descriptor says that the next pixel lies.
        replaced("dense/operands.py", "[(0, unaligned(self.problem.in_channels, self.dtype))]", "[(0, 8)]"),
    ],
    ids=["a later wait", "another stride"],
)
def test_a_mutant_is_refused(tmp_path, program, mutation):
    record.save(ran(program), tmp_path / "record.json")
    before = (tmp_path / "record.json").read_bytes()
    done = in_copy(tmp_path, mutation)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DOES NOT HOLD" in done.stdout
    assert "2d bf16 padded 1x64pixels" in done.stdout  # which code path
    assert (tmp_path / "record.json").read_bytes() == before


def test_names_comments_and_debug_lines_do_not_count():
    ptx = ".version 9.0\n.entry pallas_conv_dense_a_mosaic_gpu_kernel(\n\t.loc 1 334 0\n$L__tmp0:\n\tadd.s32 %r1, %r2, 8;\n"
    same = (
        ptx.replace("dense_a", "conv_b").replace("334", "12").replace("9.0", "8.8").replace("tmp0", "tmp4")
        + "// a comment\n"
    )
    assert instructions.of_text(same) == instructions.of_text(ptx)
    assert instructions.of_text(ptx.replace(", 8", ", 16")) != instructions.of_text(ptx)


def host_code(sizes, strides, described=None):
    """The code that makes a TMA descriptor of an array of these sizes, which has been described with other axes, perhaps."""
    axes = described or sizes
    kind = f"{{ ptr, ptr, i64, [{len(axes)} x i64] }}"
    fields = [("ptr %4", "0"), ("ptr %4", "1"), ("i64 0", "2"), *((f"i64 {n}", f"3, {i}") for i, n in enumerate(axes))]
    lines = ["define i32 @kernel(ptr %0, ptr %1, ptr %2) {", "  %4 = load ptr, ptr %2, align 8"]
    for n, (value, place) in enumerate(fields, 5):
        lines.append(f"  %{n} = insertvalue {kind} {'undef' if n == 5 else f'%{n - 1}'}, {value}, {place}")
    n = 5 + len(fields)
    lines += [f"  %{n} = extractvalue {kind} %{n - 1}, 1", f"  %{n + 1} = ptrtoint ptr %{n} to i64"]
    lines += [f"  %{n + 2} = inttoptr i64 %{n + 1} to ptr", f"  %{n + 3} = alloca [{len(sizes) * 2} x i64], align 8"]
    lines += [f"  store i64 {size}, ptr %{n + 3}, align 4" for size in (*sizes, *strides)]
    return "\n".join([*lines, f"  call void @mosaic_gpu_init_tma_desc(ptr %{n + 2}, ptr %{n + 3})", "  ret i32 0", "}"])


def test_how_the_host_describes_an_array_does_not_count_but_what_tma_gets_does():
    code = host_code((8, 64), (512, 64))
    assert instructions.of_text(host_code((8, 64), (512, 64), described=(1, 8, 1, 64))) == instructions.of_text(code)
    others = [
        host_code((8, 32), (512, 64)),
        host_code((8, 64), (512, 32)),
        code.replace("ptr %4, 1", "ptr %1, 1"),  # of another array
    ]
    assert len({instructions.of_text(text) for text in (code, *others)}) == 4
    whole = "\n  store { ptr, ptr, i64, [2 x i64] } %9, ptr %0, align 8\n  ret"
    escaping = [text.replace("\n  ret", whole) for text in (code, host_code((8, 64), (512, 64), described=(8, 32)))]
    assert instructions.of_text(escaping[0]) != instructions.of_text(escaping[1])


def test_a_record_that_lists_no_kernels_is_not_renewed():
    found, why = renew.renewed(ran())
    assert found.sources == (OLD,)
    assert why


def test_without_a_record_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(record, "SHIPPED", tmp_path)
    assert renew.main([]) == 0
    assert "no records" in capsys.readouterr().out


def test_the_list_names_the_records_that_do_not_hold(tmp_path, capsys):
    present = Source(jax.__version__, digest.code("dense"), "run")
    for name, found in {"old.json": ran(), "new.json": ran().with_source(present)}.items():
        record.save(found, tmp_path / name)
    assert renew.main(["--list", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 0
    old, new = capsys.readouterr().out.splitlines()
    assert "old.json: does not hold" in old
    assert "new.json: holds" in new

"""Settings that tests need before JAX starts: eight CPU devices, threads for the interpreter, strict promotion, no records."""

import os
import pathlib
import tempfile
import zlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # GPU programs are compiled with no GPU here
os.environ.setdefault("NPROC", "16")  # Mosaic's interpreter blocks threads of XLA's pool
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["PALLAS_CONV_CACHE_DIR"] = tempfile.mkdtemp(prefix="pallas_conv_tests_")

import jax
import pytest

# Files of tests that make XLA compile nothing, but for those marked `aot`, and take seconds: all that `make check` runs.
UNCOMPILED = {
    pathlib.Path(__file__).parent / path
    for path in (
        "bench/test_kernels.py",
        "bench/test_record_from_rows.py",
        "bench/test_renew.py",
        "bench/test_report.py",
        "bench/test_table.py",
        "kernels/dense/test_legal.py",
        "kernels/dense/test_work.py",
        "kernels/depthwise/test_legal.py",
        "kernels/depthwise/test_served.py",
        "kernels/large_depthwise/test_served.py",
        "kernels/tap_blocks/test_blocks.py",
        "kernels/test_chips.py",
        "kernels/test_choice.py",
        "kernels/test_cost.py",
        "kernels/test_families.py",
        "kernels/test_tuned.py",
        "kernels/wgrad/test_legal.py",
        "test_licences.py",
        "test_packaging.py",
        "test_plans.py",
        "test_record.py",
        "test_strict.py",
        "test_wanted.py",
    )
}


def pytest_addoption(parser):
    parser.addoption("--uncompiled", action="store_true", help="run the tests that compile nothing: `make check`")
    parser.addoption("--part", type=_part, help="run the Kth of N parts of the tests, such as 1/8")


def _part(text):
    try:
        k, n = map(int, text.split("/"))
    except ValueError:
        k, n = 0, 0
    if not 1 <= k <= n:
        raise pytest.UsageError(f"--part must be K/N with 1 <= K <= N, such as 1/8, not {text}")
    return k, n


def pytest_ignore_collect(collection_path, config):
    others = collection_path.suffix == ".py" and collection_path not in UNCOMPILED
    return True if others and config.getoption("--uncompiled") else None


def pytest_collection_modifyitems(config, items):
    """A test's name decides its part: it stays there when others come and go."""
    if part := config.getoption("--part"):
        k, n = part
        chosen, others = [], []
        for item in items:
            (chosen if zlib.crc32(item.nodeid.encode()) % n == k - 1 else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = chosen


@pytest.fixture(autouse=True)
def nothing_shipped(request, monkeypatch, tmp_path_factory):
    """The rules about records are tested where there are none: what ships changes with every hardware run.

    A test marked `shipped` sees what ships.
    """
    from pallas_conv.dispatch import record

    if "shipped" not in request.keywords:
        monkeypatch.setattr(record, "SHIPPED", tmp_path_factory.getbasetemp() / "no_records")


@pytest.fixture
def uncompiled():
    return UNCOMPILED


@pytest.fixture
def compilations():
    """The programs that XLA compiles during a test, a row of seconds, which grows."""
    found = []

    def note(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(autouse=True)
def as_listed(request):
    """A test of a file in UNCOMPILED fails if XLA compiles anything in it, so that `make check` stays fast."""
    listed = request.path in UNCOMPILED and "aot" not in request.keywords
    found = request.getfixturevalue("compilations") if listed else []
    yield
    assert not found, (
        f"XLA compiled {len(found)} programs: take {request.path.name} off UNCOMPILED in tests/conftest.py"
    )

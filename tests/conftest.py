"""Settings that tests need before JAX starts: eight CPU devices, threads for the interpreter, strict promotion, no records."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # GPU programs are compiled with no GPU here
os.environ.setdefault("NPROC", "16")  # Mosaic's interpreter blocks threads of XLA's pool
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["PALLAS_CONV_CACHE_DIR"] = tempfile.mkdtemp(prefix="pallas_conv_tests_")

import pytest


def pytest_addoption(parser):
    parser.addoption("--part", type=_part, help="run every Nth test, from the Kth on: K/N, such as 1/8")


def _part(text):
    try:
        k, n = map(int, text.split("/"))
    except ValueError:
        k, n = 0, 0
    if not 1 <= k <= n:
        raise pytest.UsageError(f"--part must be K/N with 1 <= K <= N, such as 1/8, not {text}")
    return k, n


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if part := config.getoption("--part"):
        k, n = part
        config.hook.pytest_deselected(items=[it for i, it in enumerate(items) if i % n != k - 1])
        items[:] = items[k - 1 :: n]


@pytest.fixture(autouse=True)
def nothing_shipped(request, monkeypatch, tmp_path_factory):
    """The rules about records are tested where there are none: what ships changes with every hardware run.

    A test marked `shipped` sees what ships.
    """
    from pallas_conv.dispatch import record

    if "shipped" not in request.keywords:
        monkeypatch.setattr(record, "SHIPPED", tmp_path_factory.getbasetemp() / "no_records")

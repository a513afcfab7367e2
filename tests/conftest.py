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


@pytest.fixture(autouse=True)
def nothing_shipped(request, monkeypatch, tmp_path_factory):
    """The rules about records are tested where there are none: what ships changes with every hardware run.

    A test marked `shipped` sees what ships.
    """
    from pallas_conv.dispatch import record

    if "shipped" not in request.keywords:
        monkeypatch.setattr(record, "SHIPPED", tmp_path_factory.getbasetemp() / "no_records")

"""Where a run happens: the GPU, the software, the source, in one row."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .script import Row

if TYPE_CHECKING:
    from .worker import Context

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOPPER = (9, 0)
GPU_FIELDS = (
    "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.draw,power.limit,temperature.gpu"
)
PACKAGES = ("jax", "equinox", "numpy", "nvidia-")  # the beginnings of the names


def describe(context: "Context") -> Iterator[Row]:
    import jax

    from pallas_conv.kernels import digest

    device = context.device
    yield {
        "device_kind": device.device_kind,
        "platform": device.platform,
        "compute_capability": str(getattr(device, "compute_capability", None)),
        "sms": getattr(device, "core_count", None),
        "devices": len(jax.devices()),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "unknown",
        "gpu": _output("nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv"),
        "jax": jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": versions(),
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "code": digest.code(),
        "choice": digest.choice(device.device_kind),
        "commit": context.options.commit or _output("git", "rev-parse", "HEAD"),
        "changed": _output("git", "status", "--porcelain", "--untracked-files=no"),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on, those of CUDA among them."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: found[name] for name in sorted(found) if name and name.lower().startswith(PACKAGES)}


def _output(*command: str) -> str | None:
    """What a command prints; None where there is no such command, or it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def capability(dry: bool) -> tuple[int, int] | None:
    """The compute capability of the first GPU; in a dry run that of the interpreter."""
    import jax

    if dry:
        return HOPPER
    major, minor = str(jax.devices()[0].compute_capability).split(".")
    return int(major), int(minor)


def num_sms(dry: bool) -> int:
    """Streaming multiprocessors that kernels are launched for: in a dry run two, without a GPU an H100's."""
    import jax

    from pallas_conv.kernels.config import H100_SMS

    return 2 if dry else getattr(jax.devices()[0], "core_count", None) or H100_SMS

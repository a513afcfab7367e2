"""Says where a run happens: the GPU, the software, the source, in one row."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax

from pallas_conv.kernels import digest
from pallas_conv.kernels.families import FAMILIES
from pallas_conv.kernels.gpu import HOPPER, Gpu
from pallas_conv.target import resolve

from .script import Row

if TYPE_CHECKING:
    from .worker import Context

ROOT = pathlib.Path(__file__).resolve().parents[2]
GPU_FIELDS = (
    "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.draw,power.limit,temperature.gpu"
)
PACKAGES = ("jax", "equinox", "numpy", "nvidia-")  # the beginnings of the names


def describe(context: "Context") -> Iterator[Row]:
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
        "code": code(),
        "choice": {family.name: digest.choice(family.name, device.device_kind) for family in FAMILIES},
        "commit": context.options.commit or _output("git", "rev-parse", "HEAD"),
        "changed": _output("git", "status", "--porcelain", "--untracked-files=no"),
    }


def code() -> dict[str, str]:
    """The digest of each family's kernels."""
    return {family.name: digest.code(family.name) for family in FAMILIES}


def versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on, those of CUDA among them."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: found[name] for name in sorted(found) if name and name.lower().startswith(PACKAGES)}


def _output(*command: str) -> str | None:
    """The text that a command prints; None where there is no such command, or it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def capability(dry: bool) -> tuple[int, int] | None:
    """The compute capability of the first GPU; in a dry run that of the interpreter."""
    return HOPPER.capability if dry else resolve(None).capability


def gpu(dry: bool) -> Gpu:
    """The chip that kernels are launched for: in a dry run one of two SMs, without a GPU one like an H100."""
    return Gpu(num_sms=2) if dry else Gpu.of(resolve(None))

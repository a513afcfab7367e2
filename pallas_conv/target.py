"""The target that a program is compiled for: platform, GPU generation, size of the chip."""

import dataclasses
import functools
import pathlib

import jax

# (compute capability, streaming multiprocessors), by a part of the device kind.
_GPUS = {
    "GH200": ((9, 0), 132),
    "GB200": ((10, 0), 148),
    "H100 PCIe": ((9, 0), 114),
    "H100": ((9, 0), 132),
    "H200": ((9, 0), 132),
    "B200": ((10, 0), 148),
    "B300": ((10, 3), 148),
    "A100": ((8, 0), 108),
    "L40": ((8, 9), 142),
    "L4": ((8, 9), 58),
}
_PLATFORMS = ("cpu", "tpu", "cuda", "rocm")
_SHORT_NAMES = {
    "h100": "NVIDIA H100 80GB HBM3",
    "h200": "NVIDIA H200",
    "a100": "NVIDIA A100-SXM4-80GB",
    "b200": "NVIDIA B200",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """platform as JAX names it when lowering: "cpu", "cuda", "rocm", "tpu". The rest is of a GPU, None if not known.

    amx is of a CPU: whether it multiplies bfloat16 matrices by instructions of their own (Intel's AMX).
    """

    platform: str
    device_kind: str | None = None
    capability: tuple[int, int] | None = None
    num_sms: int | None = None
    amx: bool = False

    @property
    def is_gpu(self) -> bool:
        return self.platform in ("cuda", "rocm")

    def __str__(self) -> str:
        if self.amx:
            return f"{self.platform} (AMX)"
        if self.capability is None:
            return self.device_kind or self.platform
        return f"{self.device_kind} (compute capability {self.capability[0]}.{self.capability[1]})"


@functools.cache
def this_cpu() -> Target:
    """The CPU of this process. AMX is looked for where Linux lists what a CPU has; elsewhere there is none to XLA."""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        flags = ""
    return Target("cpu", amx="amx_bf16" in flags)


def from_device_kind(kind: str) -> Target:
    """The NVIDIA GPU of this name; its generation is None if the name is not known here."""
    for name in sorted(_GPUS, key=len, reverse=True):
        if name in kind:
            return Target("cuda", kind, *_GPUS[name])
    return Target("cuda", kind)


def from_device(device: jax.Device) -> Target:
    if device.platform == "cpu":
        return this_cpu()
    if device.platform not in ("gpu", "cuda"):
        return Target(device.platform, device.device_kind)
    known = from_device_kind(device.device_kind)
    version = str(getattr(device, "compute_capability", ""))
    if version.startswith("gfx"):  # of AMD
        return Target("rocm", device.device_kind)
    if "." not in version:
        return known
    major, minor = version.split(".")
    cores = getattr(device, "core_count", None) or known.num_sms
    return dataclasses.replace(known, capability=(int(major), int(minor)), num_sms=cores)


def _named(name: str) -> Target | None:
    short = name.lower()
    if short == "cpu":
        return this_cpu()
    if short in _PLATFORMS:
        return Target(short)
    if short in _SHORT_NAMES:
        return from_device_kind(_SHORT_NAMES[short])
    return from_device_kind(name) if name.startswith("NVIDIA ") else None


def resolve(device: "str | jax.Device | Target | None") -> Target:
    """The target of a name, of a `jax.Device`, or of the default device (None).

    Names are "cpu", "tpu", "cuda", "rocm", "h100", "h200", "a100", "b200", and a GPU's own, such as "NVIDIA H100 PCIe", as
    `jax.Device.device_kind` has it; of one that is not known here the generation is not, either, so no kernel runs on it.

    Raises ValueError for other names.
    """
    if isinstance(device, Target):
        return device
    if device is None:
        default = jax.config.jax_default_device
        device = jax.devices(default)[0] if default is None or isinstance(default, str) else default
    if isinstance(device, jax.Device):
        return from_device(device)
    target = _named(device) if isinstance(device, str) else None
    if target is None:
        raise ValueError(
            f"device must be a jax.Device, a GPU's full name such as 'NVIDIA H100 PCIe', or one of "
            f"{', '.join(map(repr, (*_PLATFORMS, *_SHORT_NAMES)))}; got {device!r}"
        )
    return target

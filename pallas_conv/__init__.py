"""Convolutions for JAX: equinox- and inox-compatible layers over hand-tiled kernels, with the best lax program elsewhere."""

from . import lax, nn
from .dispatch.explain import explain
from .dispatch.implementation import implementation
from .errors import UnsupportedError
from .functional import conv, conv_transpose, transpose_weight
from .nn.convert import convert
from .nn.equinox import Conv, Conv1d, Conv2d, Conv3d, ConvTranspose, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from .nn.report import convert_report
from .primitives import dots_saveable

__version__ = "0.1.0"

__all__ = [
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "UnsupportedError",
    "conv",
    "conv_transpose",
    "convert",
    "convert_report",
    "dots_saveable",
    "explain",
    "implementation",
    "lax",
    "nn",
    "transpose_weight",
]


def __dir__() -> list[str]:
    return [*globals(), "inox"]


def __getattr__(name: str):
    """`pallas_conv.inox`, imported when first used: it needs the optional package inox."""
    if name == "inox":
        import importlib

        return importlib.import_module(".nn.inox", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

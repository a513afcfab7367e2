"""Convolutions for JAX: equinox- and inox-compatible layers over hand-tiled kernels, with the best lax program elsewhere."""

from . import nn as nn
from .errors import UnsupportedError as UnsupportedError
from .explain import explain as explain
from .functional import conv as conv
from .functional import conv_transpose as conv_transpose
from .functional import transpose_weight as transpose_weight
from .implementation import implementation as implementation
from .nn.convert import convert as convert
from .nn.convert import convert_report as convert_report
from .nn.equinox import Conv as Conv
from .nn.equinox import Conv1d as Conv1d
from .nn.equinox import Conv2d as Conv2d
from .nn.equinox import Conv3d as Conv3d
from .nn.equinox import ConvTranspose as ConvTranspose
from .nn.equinox import ConvTranspose1d as ConvTranspose1d
from .nn.equinox import ConvTranspose2d as ConvTranspose2d
from .nn.equinox import ConvTranspose3d as ConvTranspose3d
from .primitives import dots_saveable as dots_saveable


def __getattr__(name: str):
    """`pallas_conv.inox`, imported when first used: it needs the optional package inox."""
    if name == "inox":
        import importlib

        return importlib.import_module(".nn.inox", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

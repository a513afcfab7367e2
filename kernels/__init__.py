"""Hand-tiled Mosaic GPU kernels, imported as `pallas_conv.kernels`: the only room that imports Pallas."""

if __name__ != "pallas_conv.kernels":
    raise ImportError(f"these kernels are part of pallas_conv: import pallas_conv.kernels, not {__name__}")

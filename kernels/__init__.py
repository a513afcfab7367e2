"""Hand-tiled Mosaic GPU kernels, imported as `pallas_conv.kernels`: the only room that imports Pallas.

support.py   what is served and why the rest is not   config.py   tile configurations: budget, model, choice
taps.py      geometry as phases and taps              launch.py   arrays in, arrays out: the way to run a kernel

Importing this package imports no Pallas: launch.py does, so import that where a kernel is about to run.
"""

if __name__ != "pallas_conv.kernels":
    raise ImportError(f"these kernels are part of pallas_conv: import pallas_conv.kernels, not {__name__}")

"""Hand-tiled Mosaic GPU kernels, imported as `pallas_conv.kernels`: the only package that imports Pallas.

support.py  what is served, and why the rest is not   launch.py     arrays in, arrays out: the way to run a kernel
config.py   tilings and their budget                  dense.py      the kernel; schedule.py, epilogue.py: its parts
taps.py     geometry as phases and taps               remapping.py  what XLA does around it
work.py     what a tiling costs, counted              cost.py       clocks of it, modelled; chips.py: on which chips
choice.py   which tiling is taken                     tuned.py      which ones were found fastest on a device
evidence.py what a hardware run proves, as keys       digest.py     of the source, for records of hardware runs
mosaic.py   the seam to Pallas and Mosaic

Importing this package imports no Pallas: launch.py does, so import that where a kernel is about to run.
"""

if __name__ != "pallas_conv.kernels":
    raise ImportError(f"these kernels are part of pallas_conv: import pallas_conv.kernels, not {__name__}")

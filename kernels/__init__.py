"""Hand-tiled Mosaic GPU kernels, imported as `pallas_conv.kernels`: the only package that imports Pallas.

serve.py    a product's kernel: found, configured, run      family.py    what a family says of itself: read it before
families.py the families there are                                       writing a kernel
dense/      forward products and input gradients
wgrad/      weight gradients

choice.py   which candidate is taken                        tuned.py     which ones were found fastest on a device
cost.py     clocks of what a kernel asks, modelled          chips.py     constants of chips; gpu.py: generations of GPUs
geometry.py phases and taps of a convolution                digest.py    the source's digest, for records of hardware runs

Device code that families share:
mosaic.py   the seam to Pallas and Mosaic                   ring.py      slots between producer and consumers
views.py    arrays as TMA boxes                             store.py     a tile's way out; epilogue.py: its arithmetic
scalars.py  index arithmetic                                layouts.py, partials.py   what XLA does around a kernel

Importing this package imports no Pallas: a family's body does, when a kernel is about to run.
"""

if __name__ != "pallas_conv.kernels":
    raise ImportError(f"these kernels are part of pallas_conv: import pallas_conv.kernels, not {__name__}")

"""Hand-tiled Mosaic GPU kernels, imported as `pallas_conv.kernels`: the only package that imports Pallas.

serve.py         a product's kernel: found, configured, run
family.py        what a family says of itself: read it before writing a kernel
families.py      the families there are, and which of them serves a product

dense/           forward products and input gradients of groups of more than eight channels
wgrad/           weight gradients of such groups
depthwise/       all products of groups of one to eight channels
large_depthwise/ those of groups of one channel, with large kernels of two dimensions
tap_blocks/      those of more taps than depthwise/ has registers for, as several launches of its kernel
packed_groups/   those of groups with few channels on one side, by the kernels of dense/ and wgrad/
pointwise/       whole backward passes of 1x1 convolutions

choice.py        which candidate is taken                   tuned.py      which ones were found fastest on a device
cost.py          clocks of what a kernel asks, modelled     modelled.py   times of kernels by that model
chips.py         constants of chips, for the model          gpu.py        generations of GPUs
geometry.py      phases and taps of a convolution           digest.py     the source's digest, for records of hardware runs

Device code that families share:
mosaic.py        the seam to Pallas and Mosaic              mma.py        instructions that Mosaic has no names for
launch.py        a kernel whose body is an object           ring.py       slots between producer and consumers
views.py         arrays as TMA boxes                        scalars.py    index arithmetic
store.py         a tile's way out                           epilogue.py   its arithmetic; derivatives.py: of activations
examples.py      gradients of each example by itself        layouts.py, partials.py   what XLA does around a kernel

Importing this package imports no Pallas: a family's body does, when a kernel is about to run.
"""

if __name__ != "pallas_conv.kernels":
    raise ImportError(f"these kernels are part of pallas_conv: import pallas_conv.kernels, not {__name__}")

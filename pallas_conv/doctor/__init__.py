"""`python -m pallas_conv doctor`: are the kernels right on this machine, and are they faster than XLA?

On a Hopper GPU it checks the products of published layers and networks at their own sizes, times them beside what `auto` runs
otherwise, and records what it found (see `record`), so that `auto` may take the kernels. Without one, a few small kernels are
checked in Mosaic's interpreter, races included. `--plan h100` prints, anywhere, what would be checked there.
"""

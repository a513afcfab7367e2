"""The lax programs, each beside the products that it serves and what it costs.

library.py        stock's programs: the convolutions of the platform's library
prepared.py       the same with operands prepared so that the library does less
depth.py          three dimensions as two, for the same library
multiply_add.py   few channels: forward sums as fused loops
correlate.py      few channels: weight gradients as fused loops
columns.py        many channels: all windows side by side, and a matrix product
split_columns.py  the same with the taps of one axis in the columns and those of the other in the result
per_tap.py        many channels: matrix products from or to every tap, and no columns
matmuls.py        the matrix products of the last three
windows.py        padding, windows and output phases, which all of them share
"""

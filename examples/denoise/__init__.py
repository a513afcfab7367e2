"""Train a small U-Net to denoise photographs, with stock equinox and with pallas_conv side by side.

`python -m examples.denoise` runs it; `data` and `model` are ordinary equinox code that knows nothing of pallas_conv.
"""

"""Train a small U-Net to denoise photographs, with stock equinox and with pallas_conv side by side.

`python -m examples.denoise` runs it; `data` and `model` are ordinary equinox code that knows nothing of pallas_conv.
"""

import os

os.environ.setdefault("NPROC", "16")  # read when JAX starts: Mosaic's interpreter blocks threads of XLA's pool

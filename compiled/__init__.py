"""Programs compiled for GPUs that need not be there, and what can be read from them.

A package of its own, because tests and `bench` both ask compilers and neither should reach through the other; because it needs
JAX's CUDA plugin, which `workloads` does not; and because users of the wheel do not need it, as they need `pallas_conv.verify`.
It imports `workloads`, and nothing of `bench` or `tests`.
"""

"""What benchmarks and tests run: the suite's layers, networks, random layers, and small products that show a kernel's features.

Data and models alone. Nothing is measured or asserted here, and nothing of `bench`, `compiled` or `tests` is imported, so that
either may change without the other. No part of the wheel.
"""

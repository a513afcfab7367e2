"""Workloads of benchmarks and tests: the suite, random layers, networks, loops, and the small products of the ladder.

Data, models and programs alone. Nothing is measured or asserted here, and nothing of `bench`, `compiled` or `tests` is
imported: these may change without one another. No part of the wheel.
"""

"""Measures the cost model's constants on this device: python -m bench.micro --minutes 2

Tiny kernels, each of one thing that the dense kernel does, in the order in which the ranking of tiles depends on it: loads
from L2 and from global memory, boxes over images, wgmma beside TMA's writes, rows of boxes, arrivals, chunks of an epilogue,
two consumers that drift apart; then the cost of a launch, and clock and rate under a long load. Arguments, exit status and
the rows of kind "run", "device" and "compile" are those of `bench.runner`; --ask REGEX asks a part of it.

Each row of kind "micro" that has a value says what it was computed from:

    name, value, unit   of a repetition: a load, a step, a chunk (see questions.py)
    us, clocks          that it takes in every block at the same time: the difference of two launches of `few` and `many`
                        repetitions, so that what a launch costs is left out; from few_us and many_us by verify.timing
    gigahertz           the clock meanwhile, by the SM's own counters of clocks and nanoseconds
    clocks_inside       the same by these counters alone, of the slowest block, to compare with `clocks`
    source              of the times: constants are made of "cupti" only

A row without a value says whether the kernel computed what it should; a kernel that is wrong is not timed. Under --dry-run
kernels are interpreted on tiny arrays, and nothing is timed.

    python -m bench.micro --constants bench/results/h100/micro-*.jsonl

turns rows into the entry of the device in kernels/chips.json, without a GPU: see constants.py.
"""

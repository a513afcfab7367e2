"""Vector clocks: who knows what has happened, so that races are found whatever the timing.

A clock has a component for each warp of the cluster, then one for each of its mbarriers. A warp counts its releases; an
mbarrier counts its phases, to which what TMA writes belongs. Barriers hand clocks on (PTX ISA, "Memory Consistency
Model": causality order), and an access is a race unless the accessing warp's clock covers what it conflicts with.
"""

import numpy as np

COMPONENTS = 256
NOBODY = COMPONENTS - 1  # who wrote what nobody has written: a component that stays 0
NEVER = 2**31 - 1  # the time of what is not over


class Clock:
    def __init__(self):
        self.times = np.zeros(COMPONENTS, np.int32)

    def covers(self, other: "Clock") -> None:
        """Learn all that the other clock knows."""
        np.maximum(self.times, other.times, out=self.times)

"""The kernels that time one thing each, as the dense kernel does it: fill, multiply, hand over, store, nothing.

Each is a function of a `plan`, int32 [blocks, 4], and its other operands, and returns (result, watch): what `expected_*`
says it computed, so that no rate is that of a kernel which did not do its work, and what its `stopwatch` read. The row of
the plan of a block is

    (count, first, step, end)    repeat `count` times; load boxes first, first + step, ... below `end`, then first again

so that one compiled kernel loads lines that are distinct or shared, of L2 or of global memory, in many blocks or in one.
"""

from .arrivals import hand_over as hand_over
from .arrivals import idle as idle
from .epilogue import expected_store as expected_store
from .epilogue import store as store
from .loads import expected_fill as expected_fill
from .loads import fill as fill
from .parts import COLUMNS as COLUMNS
from .parts import Kernel as Kernel
from .parts import cut as cut
from .parts import visited as visited
from .products import expected_multiply as expected_multiply
from .products import expected_tile as expected_tile
from .products import multiply as multiply
from .products import tiles as tiles

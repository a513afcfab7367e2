"""The ladder: small products under explicit configurations, each rung one feature more of its family's kernel.

The simplest come first. What fails on a rung, but on none below it, lies with the feature of that rung. Products are small
enough for the interpreter; few workers give each of them several tiles, as a whole chip has of large products. A rung's name
is its feature, one of its family's `FEATURES`; its cases have no other than those of the rungs below.
"""

from . import dense, depthwise, large_depthwise, packed_groups, pointwise, tap_blocks, wgrad
from .rung import Rung as Rung

FAMILIES = {
    "dense": dense,
    "wgrad": wgrad,
    "large_depthwise": large_depthwise,
    "depthwise": depthwise,
    "tap_blocks": tap_blocks,
    "packed_groups": packed_groups,
    "pointwise": pointwise,
}
LADDER = tuple(rung for family in FAMILIES.values() for rung in family.LADDER)
CASES = tuple(case for rung in LADDER for case in rung.cases)

"""The ladder of the dense family: small products under explicit configurations, each rung one feature more of its kernel.

The simplest come first. What fails on a rung, but on none below it, lies with the feature of that rung. Products are small
enough for the interpreter; few workers give each of them several tiles, as a whole chip has of large products. A rung's name
is its feature, of `features.FEATURES`; its cases have no other than those of the rungs below.
"""

from . import operands, plain, products, tiles
from .rung import Rung as Rung

LADDER = (*plain.RUNGS, *tiles.RUNGS, *products.RUNGS, *operands.RUNGS)
CASES = tuple(case for rung in LADDER for case in rung.cases)

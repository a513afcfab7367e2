"""The ladder of the dense family."""

from . import operands, plain, products, tiles
from .features import FEATURES as FEATURES
from .features import features as features

LADDER = (*plain.RUNGS, *tiles.RUNGS, *products.RUNGS, *operands.RUNGS)
CASES = tuple(case for rung in LADDER for case in rung.cases)

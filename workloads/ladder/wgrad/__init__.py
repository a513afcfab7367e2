"""The ladder of the weight-gradient family."""

from . import geometries, plain, tiles
from .features import FEATURES as FEATURES
from .features import features as features

LADDER = (*plain.RUNGS, *tiles.RUNGS, *geometries.RUNGS)
CASES = tuple(case for rung in LADDER for case in rung.cases)

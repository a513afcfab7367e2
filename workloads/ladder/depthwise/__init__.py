"""The ladder of the depthwise family."""

from . import epilogues, geometries, plain
from .features import FEATURES as FEATURES
from .features import features as features

LADDER = (*plain.RUNGS, *epilogues.RUNGS, *geometries.RUNGS)
CASES = tuple(case for rung in LADDER for case in rung.cases)

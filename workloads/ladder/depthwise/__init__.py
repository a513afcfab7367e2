"""The ladder of the depthwise family."""

from . import backward, epilogues, geometries, gradients, plain
from .features import FEATURES as FEATURES
from .features import features as features

LADDER = (*plain.RUNGS, *epilogues.RUNGS, *gradients.RUNGS, *geometries.RUNGS, *backward.RUNGS)
CASES = tuple(case for rung in LADDER for case in rung.cases)

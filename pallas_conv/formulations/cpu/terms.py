"""The words that rules for a CPU have in common: thresholds, and what a product is like.

All thresholds were fitted to the measurements in bench/results: they lie where the faster program changes.
"""

from ..sizes import Sizes

TINY = 5e5  # floating-point operations of a dense product below which it is the number of steps that counts
SMALL = 2e6  # those below which columns and sums of them cost about as much as they save
FEW = 4  # channels too few to fill a matrix product
BROAD = 32  # output channels that are worth a matrix product a model
MEDIUM = 80  # channels that are worth a matrix product with few pixels, too
FEW_TAPS = 4  # of which columns are cheap
PIXELS = 64  # fewer are too few for one side of a matrix product, or to loop over
SQUARE = 256  # pixels of an image that is no longer small
MANY_IMAGES = 8  # above it, a matrix product for each small image is slower than the library


def strided(s: Sizes) -> bool:
    return max(s.spec.strides) > 1


def thinner(s: Sizes) -> int:
    """Channels of the side that has fewer."""
    return min(s.group_in, s.group_out)

"""The three products as lax programs: stock's and faster ones, and which of them a platform is best served by."""

from .catalogue import CHANNELS_LAST as CHANNELS_LAST
from .catalogue import CROPPED as CROPPED
from .catalogue import LIKE_STOCK as LIKE_STOCK
from .catalogue import STOCK as STOCK
from .catalogue import serving as serving
from .choice import cache as cache
from .choice import choose as choose
from .contract import contract as contract
from .division import xla_divides as xla_divides

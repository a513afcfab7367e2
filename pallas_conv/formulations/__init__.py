"""The three products as lax programs: stock's and faster ones, and which of them a platform is best served by.

sizes.py        a product in canonical form (canonical.py): what conditions, costs and rules are written in
formulation.py  a lax program, the products that it serves and what it costs; rules for taking one
programs/       all formulations; catalogue.py: by name, and those that serve a product
choice.py       which of them is taken, by the rules of cpu/ and nvidia.py
run.py          a product of arrays by the one that was taken; blocks.py: over a few images at a time
division.py     which of them XLA divides over devices
"""

from .catalogue import CHANNELS_LAST as CHANNELS_LAST
from .catalogue import CROPPED as CROPPED
from .catalogue import LIKE_STOCK as LIKE_STOCK
from .catalogue import STOCK as STOCK
from .catalogue import serving as serving
from .choice import cache as cache
from .choice import choose as choose
from .division import xla_divides as xla_divides
from .run import run_formulation as run_formulation

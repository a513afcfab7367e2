"""The rules for CPUs: rules.py tries those of grouped.py, dense.py and images.py, which are written in terms.py's words."""

from .rules import CACHE as CACHE
from .rules import SPARE_MEMORY as SPARE_MEMORY
from .rules import choose as choose

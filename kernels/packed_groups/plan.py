"""Packed groups: the product that is launched (`packed`), problems (`Problem`), configurations (`Config`)."""

import dataclasses
import functools
from typing import Any, NamedTuple

from pallas_conv import strict
from pallas_conv.spec import Product

from ..dense import DENSE
from ..family import Family, channels_of_a_group, group_reasons
from ..wgrad import WEIGHT_GRADIENT

LAUNCHED: dict[str, Family] = {"fprop": DENSE, "dgrad": DENSE, "wgrad": WEIGHT_GRADIENT}  # by role
# The most channels on the smaller side of a packed group. Beyond 16, which a tensor core sums at once, more groups only add
# zeros. But their number may have no smaller divisor: 61 groups of one channel are packed all together, or not at all.
MOST_CHANNELS = 64


@dataclasses.dataclass(frozen=True)
class Config:
    """A way to pack groups, and a tile for what is launched.

    count   neighbouring groups that are computed as one: a divisor of their number
    family  the name of the family whose kernel is launched
    tile    a configuration of that family
    """

    count: int
    family: str
    tile: Any

    @property
    def complexity(self) -> tuple[float, ...]:
        """A sort key, lower for simpler configurations: few groups as one, a simple tile."""
        return self.count, *self.tile.complexity

    def __str__(self) -> str:
        return f"count={self.count}, {self.tile}"

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return strict.to_json(self)

    @classmethod
    def from_json(cls, data: Any, where: str = "config") -> "Config":
        """The inverse of `to_json`. Raises ValueError, which names the field below `where`, for anything else."""
        found = strict.parse(cls, data, where)
        for family in LAUNCHED.values():
            if family.name == found.family:
                return cls(found.count, found.family, family.config.from_json(found.tile, f"{where}.tile"))
        raise ValueError(f"{where}.family must be a family that is launched, not {found.family!r}")


class Problem(NamedTuple):
    """A product in all ways in which its groups can be packed.

    family    the family whose kernel is launched
    packings  (count, the problem of that family), the least count first
    """

    family: Family
    packings: tuple[tuple[int, Any], ...]

    @classmethod
    def of(cls, product: Product) -> "Problem":
        """The problem of a product that is served."""
        family = LAUNCHED[product.role]
        return cls(family, tuple((count, family.problem(packed(product, count))) for count in counts(product)))

    def packing(self, count: int) -> Any:
        """The problem with so many groups as one."""
        return next(packing for n, packing in self.packings if n == count)


def packed(product: Product, count: int) -> Product:
    """The product with so many neighbouring groups as one: the same pixels and results, and weights `count` times as large."""
    spec = dataclasses.replace(product.spec, groups=product.spec.groups // count)
    return dataclasses.replace(product, spec=spec)


@functools.lru_cache(maxsize=1024)
def counts(product: Product) -> tuple[int, ...]:
    """The numbers of groups that may be computed as one, the least first; empty if the kernel serves no packed product."""
    groups, few = product.spec.groups, min(channels_of_a_group(product))
    most = min(groups, MOST_CHANNELS // max(1, few))
    return tuple(n for n in range(1, most + 1) if groups % n == 0 and not reasons_of_launched(packed(product, n)))


def reasons_of_launched(product: Product) -> tuple[str, ...]:
    """The launched family's reasons against a product, without the one that its groups are small.

    That reason only leaves small groups to other kernels: the launched one is right for them, too.
    """
    small = group_reasons(product)
    return tuple(reason for reason in LAUNCHED[product.role].reasons(product) if reason not in small)

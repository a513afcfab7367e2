"""Short names for products of groups of few channels: by default of one on either side."""

from typing import Any

from pallas_conv.spec import Product

from ...configured import product


def narrow(
    role: str, batch: int, channels: int, *args: Any, group: int | tuple[int, int] = 1, **kwargs: Any
) -> Product:
    """A product of so many input channels. group: channels of a group, or (in, out); see `configured.product`."""
    of_x, of_y = group if isinstance(group, tuple) else (group, group)
    groups = channels // of_x
    return product(role, batch, (channels, groups * of_y), *args, groups=groups, **kwargs)


def fprop(batch: int, channels: int, *args: Any, **kwargs: Any) -> Product:
    """A forward product."""
    return narrow("fprop", batch, channels, *args, **kwargs)


def dgrad(batch: int, channels: int, *args: Any, **kwargs: Any) -> Product:
    """An input gradient."""
    return narrow("dgrad", batch, channels, *args, **kwargs)


def wgrad(batch: int, channels: int, *args: Any, **kwargs: Any) -> Product:
    """A weight gradient."""
    return narrow("wgrad", batch, channels, *args, **kwargs)


def bwd(batch: int, channels: int, *args: Any, outputs: tuple[str, ...] = ("dx", "dw"), **kwargs: Any) -> Product:
    """A whole backward pass."""
    return narrow("bwd", batch, channels, *args, outputs=outputs, **kwargs)

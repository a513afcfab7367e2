"""Short names for products of groups of few channels: by default of one."""

from typing import Any

from pallas_conv.spec import Product

from ...configured import product


def fprop(batch: int, channels: int, *args: Any, group: int = 1, **kwargs: Any) -> Product:
    """A forward product, see `configured.product`."""
    return product("fprop", batch, (channels, channels), *args, groups=channels // group, **kwargs)


def dgrad(batch: int, channels: int, *args: Any, group: int = 1, **kwargs: Any) -> Product:
    """An input gradient."""
    return product("dgrad", batch, (channels, channels), *args, groups=channels // group, **kwargs)


def bwd(
    batch: int, channels: int, *args: Any, group: int = 1, outputs: tuple[str, ...] = ("dx", "dw"), **kwargs: Any
) -> Product:
    """A whole backward pass."""
    return product("bwd", batch, (channels, channels), *args, groups=channels // group, outputs=outputs, **kwargs)


def wgrad(batch: int, channels: int, *args: Any, group: int = 1, **kwargs: Any) -> Product:
    """A weight gradient."""
    return product("wgrad", batch, (channels, channels), *args, groups=channels // group, **kwargs)

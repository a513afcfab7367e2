"""Short names for depthwise products: as many groups as channels."""

from typing import Any

from pallas_conv.spec import Product

from ...configured import product


def fprop(batch: int, channels: int, *args: Any, **kwargs: Any) -> Product:
    """A forward product, see `configured.product`."""
    return product("fprop", batch, (channels, channels), *args, groups=channels, **kwargs)


def dgrad(batch: int, channels: int, *args: Any, **kwargs: Any) -> Product:
    """An input gradient."""
    return product("dgrad", batch, (channels, channels), *args, groups=channels, **kwargs)


def wgrad(batch: int, channels: int, *args: Any, **kwargs: Any) -> Product:
    """A weight gradient."""
    return product("wgrad", batch, (channels, channels), *args, groups=channels, **kwargs)

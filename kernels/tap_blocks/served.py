"""The products that are served in blocks of taps, the reasons against others, and the names that they are filed under."""

import math

from pallas_conv.spec import Product

from ..depthwise import DEPTHWISE
from ..depthwise.plan import Config
from ..family import DTYPES, narrow
from .blocks import MOST_TAPS, blocks, divided
from .tiles import Problems

ROLES = ("fprop", "dgrad", "wgrad")


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why a product is not served; empty if it is."""
    if product.role not in ROLES or not narrow(product):
        return tuple(DEPTHWISE.reasons(product)) or (f"in blocks of taps there is no product {product.role!r}",)
    if blocks(product):
        return ()
    against = (tuple(DEPTHWISE.reasons(block.product)) for block in divided(product, MOST_TAPS[-1]))
    return next(filter(None, against), ("no tile fits all blocks of taps",))


def problem(product: Product) -> Problems:
    """The problems of all blocks."""
    return tuple(DEPTHWISE.problem(block.product) for block in blocks(product))


def code_path(product: Product, config: Config) -> str:
    """The code paths of the depthwise kernel, each once."""
    return ", ".join(dict.fromkeys(DEPTHWISE.code_path(block.product, config) for block in blocks(product)))


def epilogue(product: Product, config: Config) -> str:
    """The epilogue of the last block, which has all that is fused."""
    return DEPTHWISE.epilogue(blocks(product)[-1].product, config)


def notes(product: Product, config: Config) -> tuple[str, ...]:
    """The launches, and the copies of activations that XLA makes around them, beyond changes of layout."""
    parts = blocks(product)
    of_each = [math.prod(block.product.spec.kernel_spatial) for block in parts]
    found = [f"{len(parts)} launches, of at most {max(of_each)} of {math.prod(product.spec.kernel_spatial)} taps each"]
    if product.role != "wgrad":
        found[0] += ": each after the first reads the sums so far, in float32"
        if product.out_dtype != "float32":
            found.append(f"XLA rounds the results to {DTYPES[product.out_dtype]}")
    copies = (DEPTHWISE.notes(block.product, config) for block in parts)
    return tuple(dict.fromkeys([*found, *(note for notes in copies for note in notes)]))

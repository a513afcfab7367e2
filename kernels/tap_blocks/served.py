"""The products that are served in blocks of taps, the reasons against others, and the names that they are filed under."""

import dataclasses
import math

from pallas_conv.spec import Product

from ..depthwise import DEPTHWISE
from ..depthwise.plan import Config
from ..depthwise.served import NAMES
from ..family import DTYPES, dtype_reasons, empty_reasons, epilogue_reasons, narrow
from .blocks import MOST_LAUNCHES, MOST_TAPS, blocks, divided, launches, sizes
from .plan import Problems

ROLES = ("fprop", "dgrad", "wgrad")


def reasons(product: Product) -> tuple[str, ...]:
    """Every reason why a product is not served; empty if it is."""
    if product.role not in ROLES or not narrow(product):
        return tuple(DEPTHWISE.reasons(product)) or (f"in blocks of taps there is no product {product.role!r}",)
    if found := _whatever_the_taps(product):
        return tuple(found)
    if not (tried := sizes(product)):
        count = launches(product, MOST_TAPS[0])
        return (f"{count} blocks of taps, of which each needs a launch, are more than {MOST_LAUNCHES}",)
    if blocks(product):
        return ()
    against = (DEPTHWISE.reasons(block.product) for block in divided(product, tried[-1]))
    why = next(filter(None, against), ["no tile fits all of them"])
    return tuple(f"in blocks of at most {tried[-1]} taps: {reason}" for reason in why)


def _whatever_the_taps(product: Product) -> list[str]:
    """The reasons against all but the number of taps. Blocks do not show them: each is a product of another kind."""
    shapes = (*product.operand_shapes[:2], product.result_shapes[0])
    fused = [] if product.role == "wgrad" else epilogue_reasons(product)
    empty = empty_reasons(dict(zip(NAMES[product.role], shapes, strict=True)))
    return [*dtype_reasons(product), *fused, *empty]


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
    summed = product.role != "wgrad"
    if summed:
        found[0] += ": each after the first reads the sums so far, in float32"
        if product.out_dtype != "float32":
            found.append(f"XLA rounds the results to {DTYPES[product.out_dtype]}")
    launched = dataclasses.replace(product, out_dtype="float32") if summed else product
    return (*found, *(f"around each launch: {note}" for note in DEPTHWISE.notes(launched, config)))

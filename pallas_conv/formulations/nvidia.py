"""Which formulation serves a product on an NVIDIA GPU, where neither it nor a kernel has been timed.

Nothing is compiled or run to decide. Each rule is backed by compiled programs in bench/results (python -m bench.compiled): a
library call takes the place of another where the program of a training step dominates stock's: fewer multiply-adds, or a
window no longer as large as the image, or fewer kernels, and no more of any of these or of memory. What would replace the
library by a fused loop waits for timings.
"""

import math

from ..spec import Product
from . import catalogue
from .catalogue import STOCK, Sizes
from .rules import Rule, first

COMPILED = ("bfloat16", "float16", "float32")  # dtypes of the programs behind the rules
LEAST_FLOPS = 1e6  # below which it is the number of kernels that counts


def choose(product: Product, beside_kernels: bool = False) -> tuple[str, str]:
    """The formulation that `auto` takes where no kernel runs, and why; see `choice.choose`."""
    if product.compute_dtype in COMPILED and product.models is None and product.spec.groups == 1:
        served = {f.name for f in catalogue.serving(product)}
        sizes = Sizes.of(product)
        rules = (*BESIDE_KERNELS, *RULES) if beside_kernels else RULES
        if served and sizes.useful_flops >= LEAST_FLOPS and (found := first(rules, sizes, served.__contains__)):
            return found
    return STOCK, "no program is known that dominates stock's on an NVIDIA GPU"


def _mostly_zeros(s: Sizes) -> bool:
    """The input filled with zeros, which forward pass and weight gradient share in stock's program, is at least as large as
    the result. Else the result costs more than that: written by the library, then once more with the bias.
    """
    image, result, up = (s.y, s.x, s.spec.strides) if s.correlates else (s.x, s.y, s.spec.input_dilation)
    return s.taps > 1 and image * math.prod(up) >= result and s.group_in * s.group_out > 1


def _window_as_large_as_the_image(s: Sizes) -> bool:
    """XLA takes a correlation for the library's weight gradient if what slides is larger than what results. Where weights
    outweigh images, or channels become the batch without a copy, the changes of layout would cost more than they save.
    """
    larger = all(k < n for k, n in zip(s.spec.kernel_spatial, s.spec.out_spatial, strict=True))
    return larger and s.w <= s.x + s.y and not _batch_for_free(s)


def _batch_for_free(s: Sizes) -> bool:
    """Of one image in fewer than three dimensions, stock's correlation takes channels for the batch as they lie."""
    return s.product.batch == 1 and s.spec.ndim < 3


def _dilated_and_uneven(s: Sizes) -> bool:
    dims = zip(s.spec.padding, s.spec.kernel_dilation, s.spec.kernel_spatial, strict=True)
    return max(s.spec.kernel_dilation) > 1 and any(low != high and d * (k - 1) for (low, high), d, k in dims)


RULES = (
    Rule(
        lambda s: s.spreads and _mostly_zeros(s) and not (s.spec.ndim == 1 and _batch_for_free(s)),
        ("reversed_kernel",),
        "the library's input gradient, where XLA would convolve an input full of zeros",
    ),
    Rule(
        lambda s: s.correlates and s.turned and _mostly_zeros(s) and _window_as_large_as_the_image(s),
        ("exchanged",),
        "the library's weight gradient, where XLA would slide a window as large as the image",
    ),
    Rule(
        lambda s: s.slides and _dilated_and_uneven(s),
        ("padded",),
        "padded first, where XLA would fill the kernel with zeros",
    ),
    Rule(
        lambda s: s.slides and s.spec.ndim == 3,  # in fewer dimensions the pad is part of a change of layout
        ("evened",),
        "padded evenly by the library, where XLA would pad a copy",
    ),
    Rule(
        lambda s: s.correlates and not _batch_for_free(s),
        ("polyphase_wgrad",),
        "the library's weight gradient, where XLA would slide a window as long as the sequence",
    ),
)

# Where kernels serve the other products of the convolution, and keep activations channels last.
BESIDE_KERNELS = (
    Rule(
        lambda s: s.correlates and s.spec.ndim == 3 and s.product.compute_dtype != "float32",
        ("depth_to_batch_wgrad",),
        "the library's 2-D weight gradient, channels last like the kernels; its 3-D one is channels first",
    ),
)

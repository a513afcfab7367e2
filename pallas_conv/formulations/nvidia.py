"""Chooses the formulation of a product on an NVIDIA GPU, where neither it nor a kernel has been timed.

Nothing is compiled or run to decide. Each rule is backed by compiled programs in bench/results (python -m bench.compiled): a
library call takes the place of another where the program of a training step dominates stock's: fewer multiply-adds, or a
window no longer as large as the image, or fewer kernels, and no more of any of these or of memory. What would replace the
library by a fused loop waits for timings.
"""

import math

from ..spec import Product, dilated
from . import catalogue
from .catalogue import STOCK
from .formulation import Rule, first
from .sizes import Sizes

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
    (image, in_extents), (result, out_extents) = _image_and_result(s)
    filled = image * math.prod(s.spec.strides if s.is_wgrad else s.spec.input_dilation)
    if s.padded_unevenly and _slides_over_more_than_its_kernel(s):
        # The library pads evenly only: XLA fills in zeros up to the end of the last window.
        spans = map(dilated, s.spec.kernel_spatial, s.spec.kernel_dilation)
        filled = (
            image * math.prod(n + span - 1 for n, span in zip(out_extents, spans, strict=True)) / math.prod(in_extents)
        )
    return s.taps > 1 and filled >= result and s.group_in * s.group_out > 1


def _image_and_result(s: Sizes) -> tuple[tuple[float, tuple[int, ...]], tuple[float, tuple[int, ...]]]:
    """Bytes and extents of the input and of the result of a transposed convolution, whichever of its products `s` is."""
    x, y = (s.x, s.spec.in_spatial), (s.y, s.spec.out_spatial)
    return (y, x) if s.is_wgrad else (x, y)


def _slides_over_more_than_its_kernel(s: Sizes) -> bool:
    """Whether the image that slides is larger than the resulting kernel, and images outweigh weights.

    XLA takes such a correlation for the library's weight gradient. Where weights outweigh images, their changes of layout
    would cost more than that saves.
    """
    (_, extents), _ = _image_and_result(s)
    return all(k < n for k, n in zip(s.spec.kernel_spatial, extents, strict=True)) and s.w <= s.x + s.y


def _window_as_large_as_the_image(s: Sizes) -> bool:
    """Whether stock's weight gradient of a transposed convolution is worse than the library's.

    Padded evenly, XLA leaves the zeros between the elements of the image to the library. Padded unevenly, also by an output
    padding, it writes them out and multiplies them, which is worse even beside a forward pass that writes them out, too.
    """
    if not _slides_over_more_than_its_kernel(s):
        return False
    if not s.padded_unevenly:
        return _mostly_zeros(s) and not _batch_for_free(s)
    if s.spec.ndim < 3:
        return not _batch_for_free(s) or (s.spec.ndim == 2 and _mostly_zeros(s))
    # A padded copy of a volume is a kernel more where no layout changes, and larger than what a single tap needs.
    return s.can_pad_evenly or (s.taps > 1 and (s.product.batch > 1 or min(s.group_in, s.group_out) > 1))


def _batch_for_free(s: Sizes) -> bool:
    """Whether there is one image in fewer than three dimensions. Its channels are the batch of stock's correlation."""
    return s.product.batch == 1 and s.spec.ndim < 3


def _dilated_and_uneven(s: Sizes) -> bool:
    """Holes in the kernel, and uneven padding of a dimension with several taps."""
    dims = zip(s.spec.padding, s.spec.kernel_dilation, s.spec.kernel_spatial, strict=True)
    return max(s.spec.kernel_dilation) > 1 and any(low != high and d * (k - 1) for (low, high), d, k in dims)


RULES = (
    Rule(
        lambda s: s.is_transposed and _mostly_zeros(s) and not (s.spec.ndim == 1 and _batch_for_free(s)),
        ("reversed_kernel",),
        "the library's input gradient, where XLA would convolve an input full of zeros",
    ),
    Rule(
        # In three dimensions the library pads evenly where that gives the same, and no copy is needed.
        lambda s: (
            s.is_wgrad
            and s.swapped
            and _window_as_large_as_the_image(s)
            and not (s.spec.ndim == 3 and s.can_pad_evenly)
        ),
        ("exchanged_padded",),
        "the library's weight gradient, padded first, where XLA would slide a window as large as the image",
    ),
    Rule(
        lambda s: s.is_wgrad and s.swapped and _window_as_large_as_the_image(s),
        ("exchanged",),
        "the library's weight gradient, where XLA would slide a window as large as the image",
    ),
    Rule(
        lambda s: s.is_conv and _dilated_and_uneven(s),
        ("padded",),
        "padded first, where XLA would fill the kernel with zeros",
    ),
    Rule(
        lambda s: s.is_conv and s.spec.ndim == 3,  # in fewer dimensions the pad is part of a change of layout
        ("evened",),
        "padded evenly by the library, where XLA would pad a copy",
    ),
    Rule(
        lambda s: s.is_wgrad and not _batch_for_free(s),
        ("polyphase_wgrad",),
        "the library's weight gradient, where XLA would slide a window as long as the sequence",
    ),
)

# Where kernels serve the other products of the convolution, and keep activations channels last.
BESIDE_KERNELS = (
    Rule(
        lambda s: s.is_wgrad and s.spec.ndim == 3 and s.product.compute_dtype != "float32",
        ("depth_to_batch_wgrad",),
        "the library's 2-D weight gradient, channels last like the kernels; its 3-D one is channels first",
    ),
)
